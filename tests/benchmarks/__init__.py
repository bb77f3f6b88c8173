"""Speed as ratios within one run, in CPU seconds of one thread: `make benchmark`. Nothing here is a timed test."""
