"""Published trajectories: which revision is which step, and what was seen and how fast it learned there."""

import itertools
import re

import numpy as np

from scripts.lib.study import schedules


def points(trajectory: dict, before: dict) -> list[dict]:
    """The checkpoints of a published trajectory, ascending by step.

    Args:
        trajectory: as in its file.
        before: step and tokens of the checkpoint that it goes on from; zeros for a run of its own.

    Returns:
        For each: revision; step and tokens, counted from the very beginning; learning_rate; phase.

    Raises:
        ValueError: a revision does not fit the pattern, or two have the same step; the message names them.
    """
    revisions, schedule = trajectory["revisions"], trajectory["schedule"]
    own = {}
    for revision in revisions.get("all", []):
        match = re.fullmatch(revisions["pattern"], revision)
        if not match:
            raise ValueError(f"revision `{revision}` does not fit `revisions.pattern`, {revisions['pattern']}")
        own[revision] = int(match["step"])
    own |= revisions.get("named", {})
    ordered = sorted(own, key=own.get)
    for one, other in itertools.pairwise(ordered):
        if own[one] == own[other]:
            raise ValueError(f"revisions `{one}` and `{other}` are both of step {own[one]}; name one of them")
    steps = np.array([own[revision] for revision in ordered], dtype=np.int64)
    columns = {
        "step": before["step"] + steps,
        "tokens": before["tokens"] + schedules.tokens(steps, trajectory["tokens_per_step"]),
        "learning_rate": schedules.learning_rate(schedule, steps),
        "phase": schedules.phase(schedule, steps),
    }
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [{"revision": name} | dict(zip(columns, row, strict=True)) for name, row in zip(ordered, rows, strict=True)]
