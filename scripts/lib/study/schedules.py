"""Learning-rate schedules as pure functions of the step; the trainer, the tables and the figures use these alone.

A schedule is a dictionary as in a trajectory file: `name`, `peak`, `warmup` and what the shape needs. All functions are
vectorised over steps. `step` counts finished optimizer steps: the update that leads from step s to s + 1 uses the rate
at s, as torch's LambdaLR does. Warm-up is linear from 0 at step 0 to `peak` at step `warmup`.
"""

import numpy as np

WARMUP, STABLE, DECAY, REWARM = "warmup", "stable", "decay", "rewarm"


def learning_rate(schedule: dict, step) -> np.ndarray:
    """Learning rate at each step, shaped as `step`.

    constant: peak after the warm-up.
    wsd: peak until decay.start, then to floor * peak at decay.end. Shape "linear", or "1-sqrt":
        1 - sqrt((s - start) / (end - start)), arXiv:2405.18392, eq. 1.
    cosine: half a period from warmup to end, arXiv:1608.03983; it ends at floor * peak, or, with `clip`, falls to zero
        and is cut off below clip * peak (as in Pythia).
    linear: straight line from warmup to floor * peak at end.
    piecewise: segments, each from the end of the one before it; see `_segment_rate`.
    After its end a schedule stays at its last value.
    """
    step = np.asarray(step, dtype=np.float64)
    if schedule["name"] == "piecewise":
        number = _segment_of(schedule, step)
        rates = np.stack([_segment_rate(segment, step) for segment in _whole(schedule)])
        return np.take_along_axis(rates, number[None], axis=0)[0]
    peak, warmup = schedule["peak"], schedule["warmup"]
    rising = np.minimum(step / warmup, 1.0) if warmup else np.ones_like(step)
    return peak * np.where(step < warmup, rising, _falling(schedule, step))


def phase(schedule: dict, step) -> np.ndarray:
    """Phase at each step, shaped as `step`: "warmup", "stable" or "decay" (after the decay's start).

    A segment of a piecewise schedule that rises is a "warmup" if it is the first one, else a "rewarm"; a step between
    two segments belongs to the earlier one, as the end of a decay is still "decay".
    """
    step = np.asarray(step)
    if schedule["name"] == "piecewise":
        return np.array([_phase_of(schedule, number) for number in range(len(schedule["segments"]))])[
            _segment_of(schedule, step)
        ]
    start = decay_start(schedule)
    after = np.where(step > start, DECAY, STABLE)
    return np.where(step < schedule["warmup"], WARMUP, after)


def tokens(step, tokens_per_step: int | list[dict]) -> np.ndarray:
    """Training tokens seen after each step.

    Args:
        tokens_per_step: tokens an optimizer step; or, where that changes, a list of {from, tokens}: from that step on.
    """
    step = np.asarray(step, dtype=np.int64)
    if isinstance(tokens_per_step, int):
        return step * tokens_per_step
    ends = [part["from"] for part in tokens_per_step[1:]] + [np.iinfo(np.int64).max]
    parts = zip(tokens_per_step, ends, strict=True)
    return sum(np.clip(step - part["from"], 0, end - part["from"]) * part["tokens"] for part, end in parts)


def peak(schedule: dict) -> float:
    """Highest rate of a schedule."""
    if schedule["name"] == "piecewise":
        return max(rate for segment in schedule["segments"] for rate in (segment["from"], segment.get("to", 0.0)))
    return schedule["peak"]


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
        case "piecewise":
            return schedule["segments"][-1]["until"]
        case _:
            return schedule["end"]


def validate(schedule: dict, where: str) -> None:
    """Check what a JSON schema cannot.

    Raises:
        ValueError: the decay starts after (or at) its end, or before the warm-up's end; `where` names the file.
    """
    if schedule["name"] == "piecewise":
        ends = [segment["until"] for segment in schedule["segments"]]
        if ends != sorted(set(ends)):
            raise ValueError(f"{where}: schedule: `until` of the segments must ascend: {ends}")
        return
    start, end, warmup = decay_start(schedule), decay_end(schedule), schedule["warmup"]
    if start != np.inf and start >= end:
        raise ValueError(f"{where}: schedule: the decay starts at step {start:g}, after its end at step {end:g}")
    if start < warmup:
        raise ValueError(f"{where}: schedule: the decay starts at step {start:g}, before the warm-up's end at {warmup}")
    if "floor" in schedule and "clip" in schedule:
        raise ValueError(f"{where}: schedule: give `floor` or `clip`, not both")


def _segment_of(schedule: dict, step) -> np.ndarray:
    """Index of the segment that each step belongs to; a step at which two meet belongs to the earlier one."""
    ends = [segment["until"] for segment in schedule["segments"]]
    return np.minimum(np.searchsorted(ends, step), len(ends) - 1)


def _whole(schedule: dict) -> list[dict]:
    """The segments with the steps over which their shapes run: by default their own ends."""
    starts = [0, *(segment["until"] for segment in schedule["segments"])]
    return [
        {"start": start, "end": segment["until"], "to": segment["from"]} | segment
        for start, segment in zip(starts, schedule["segments"], strict=False)
    ]


def _segment_rate(segment: dict, step: np.ndarray) -> np.ndarray:
    """Rate of one segment, from `from` to `to` over the steps from start to end, which may lie outside of it.

    With x in [0, 1] along these steps: linear: x; cosine: (1 - cos(pi x)) / 2; 1-sqrt: sqrt(x); constant: 0.
    """
    progress = np.clip((step - segment["start"]) / (segment["end"] - segment["start"]), 0.0, 1.0)
    match segment["shape"]:
        case "cosine":
            progress = 0.5 * (1.0 - np.cos(np.pi * progress))
        case "1-sqrt":
            progress = np.sqrt(progress)
    return segment["from"] + (segment["to"] - segment["from"]) * progress


def _phase_of(schedule: dict, number: int) -> str:
    segment = _whole(schedule)[number]
    if segment["to"] == segment["from"]:
        return STABLE
    if segment["to"] < segment["from"]:
        return DECAY
    return WARMUP if number == 0 else REWARM


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
