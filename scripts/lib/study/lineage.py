"""Where each trajectory of a study comes from, and what it holds fixed: all that says which of them can be compared."""

import itertools

import numpy as np

from scripts.lib.study import schedules
from scripts.lib.study.coordinates import root
from scripts.lib.study.trajectories.averaged import Averaged
from scripts.lib.study.trajectories.base import Trajectory
from scripts.lib.study.trajectories.trained import Trained

TRUNK, BRANCH, STAGE, AVERAGE, SOUP = "trunk", "branch", "stage", "average", "soup"


def lineage(plan) -> list[dict]:
    """One row for each trajectory of the study and all that they derive from, by name.

    Returns:
        trajectory; root, the run at the start of its chain of parents; kind: trunk, branch (trained on from another),
        stage (a published run that goes on from another, on data of its own), average (along one run) or soup (of
        several); parent and parent_step, where it left that (of a soup made here, what its ingredients grew out of);
        seed, None if it was not trained here; stage, as in its file; soup_of, its ingredients;
        weight_decay, None if unknown; decay_start and decay_end, steps between which the rate falls last, counted as
        those of checkpoints, None if it never does; decay_rate, the rate at decay_start; batch_changes, steps after
        which a step has another number of tokens; settings, every scalar setting by its dotted key.
    """
    return [_row(plan.trajectories[name]) for name in sorted(plan.trajectories)]


def _row(run: Trajectory) -> dict:
    schedule, before = getattr(run, "schedule", None), getattr(run, "before", {"step": 0})["step"]
    start, end = falling(schedule) if schedule else (None, None)
    parent, step = run.came_from
    return {
        "trajectory": run.name,
        "root": root(run).name,
        "kind": _kind(run, parent),
        "parent": parent.name if parent else None,
        "parent_step": step,
        "seed": getattr(root(run), "seed", None),
        "stage": getattr(run, "stage", None),
        "soup_of": list(getattr(run, "soup_of", ())),
        "weight_decay": run.settings.get("optimizer.weight_decay"),
        "decay_start": None if start is None else before + start,
        "decay_end": None if end is None else before + end,
        "decay_rate": None if start is None else float(schedules.learning_rate(schedule, start)),
        "batch_changes": _batch_changes(run, before),
        "settings": run.settings,
    }


def _batch_changes(run: Trajectory, before: int) -> list[int]:
    given = getattr(run, "tokens_per_step", None)
    return [before + part["from"] for part in given[1:]] if isinstance(given, list) else []


def falling(schedule: dict) -> tuple[int, int] | tuple[None, None]:
    """The schedule's own steps between which its rate falls last; None twice if it never does."""
    if schedule["name"] != "piecewise":
        start, end = schedules.decay_start(schedule), schedules.decay_end(schedule)
        return (None, None) if start == np.inf else (int(start), int(end))
    ends = [0, *(segment["until"] for segment in schedule["segments"])]
    falls = [
        (first, last) for first, last in itertools.pairwise(ends) if schedules.phase(schedule, last) == schedules.DECAY
    ]
    return falls[-1] if falls else (None, None)


def _kind(run: Trajectory, parent: Trajectory | None) -> str:
    if getattr(run, "soup_of", ()):
        return SOUP
    if isinstance(run, Averaged):
        return AVERAGE
    if parent is None:
        return TRUNK
    return BRANCH if isinstance(run, Trained) else STAGE
