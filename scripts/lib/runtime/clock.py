"""Where a job's time goes."""

import time


class Clock:
    """Seconds of the parts of a job, by name, each from the end of the part before it."""

    def __init__(self):
        self.laps, self.last = {}, time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self.last, 3)
        self.last = now
