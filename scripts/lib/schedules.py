"""Learning-rate schedules as pure functions of the step; the trainer, the tables and the figures use these alone.

A schedule is a dictionary as in a trajectory file: `name`, `peak`, `warmup` and what the shape needs. All functions are
vectorised over steps. `step` counts finished optimizer steps: the update that leads from step s to s + 1 uses the rate
at s, as torch's LambdaLR does. Warm-up is linear from 0 at step 0 to `peak` at step `warmup`.
"""

import numpy as np

WARMUP, STABLE, DECAY = "warmup", "stable", "decay"


def learning_rate(schedule: dict, step) -> np.ndarray:
    """Learning rate at each step, shaped as `step`.

    constant: peak after the warm-up.
    wsd: peak until decay.start, then to floor * peak at decay.end. Shape "linear", or "1-sqrt":
        1 - sqrt((s - start) / (end - start)), arXiv:2405.18392, eq. 1.
    cosine: half a period from warmup to end, arXiv:1608.03983; it ends at floor * peak, or, with `clip`, falls to zero
        and is cut off below clip * peak (as in Pythia).
    linear: straight line from warmup to floor * peak at end.
    After its end a schedule stays at its last value.
    """
    step = np.asarray(step, dtype=np.float64)
    peak, warmup = schedule["peak"], schedule["warmup"]
    rising = np.minimum(step / warmup, 1.0) if warmup else np.ones_like(step)
    return peak * np.where(step < warmup, rising, _falling(schedule, step))


def phase(schedule: dict, step) -> np.ndarray:
    """Phase at each step, shaped as `step`: "warmup", "stable" or "decay" (after the decay's start)."""
    step = np.asarray(step)
    start = decay_start(schedule)
    after = np.where(step > start, DECAY, STABLE)
    return np.where(step < schedule["warmup"], WARMUP, after)


def tokens(step, batch_size: int, window: int) -> np.ndarray:
    """Training tokens seen after each step: step * batch_size (windows a step) * window (tokens a window)."""
    return np.asarray(step, dtype=np.int64) * batch_size * window


def decay_start(schedule: dict) -> float:
    """Step after which the rate falls; infinity if it never does."""
    match schedule["name"]:
        case "constant":
            return np.inf
        case "wsd":
            return schedule["decay"]["start"]
        case _:
            return schedule["warmup"]


def decay_end(schedule: dict) -> float:
    """Step at which the rate has reached its last value; infinity if it never falls."""
    match schedule["name"]:
        case "constant":
            return np.inf
        case "wsd":
            return schedule["decay"]["end"]
        case _:
            return schedule["end"]


def validate(schedule: dict, where: str) -> None:
    """Check what a JSON schema cannot.

    Raises:
        ValueError: the decay starts after (or at) its end, or before the warm-up's end; `where` names the file.
    """
    start, end, warmup = decay_start(schedule), decay_end(schedule), schedule["warmup"]
    if start != np.inf and start >= end:
        raise ValueError(f"{where}: schedule: the decay starts at step {start:g}, after its end at step {end:g}")
    if start < warmup:
        raise ValueError(f"{where}: schedule: the decay starts at step {start:g}, before the warm-up's end at {warmup}")
    if "floor" in schedule and "clip" in schedule:
        raise ValueError(f"{where}: schedule: give `floor` or `clip`, not both")


def _falling(schedule: dict, step: np.ndarray) -> np.ndarray:
    """Rate after the warm-up as a share of the peak."""
    if schedule["name"] == "constant":
        return np.ones_like(step)
    shape = schedule["decay"] if schedule["name"] == "wsd" else schedule
    start, end, floor = decay_start(schedule), decay_end(schedule), shape.get("floor", 0.0)
    progress = np.clip((step - start) / (end - start), 0.0, 1.0)
    if schedule["name"] == "cosine":
        curve = 0.5 * (1.0 + np.cos(np.pi * progress))
        return np.maximum(curve, schedule["clip"]) if "clip" in schedule else floor + (1.0 - floor) * curve
    curve = 1.0 - (np.sqrt(progress) if shape.get("shape") == "1-sqrt" else progress)
    return floor + (1.0 - floor) * curve
