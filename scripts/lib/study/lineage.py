"""Where each trajectory of a study comes from, and what it holds fixed: all that says which of them can be compared."""

import itertools

import numpy as np

from scripts.lib.study import schedules
from scripts.lib.study.trajectories.averaged import Averaged
from scripts.lib.study.trajectories.base import Trajectory
from scripts.lib.study.trajectories.published import Published
from scripts.lib.study.trajectories.trained import Trained

TRUNK, BRANCH, STAGE, AVERAGE, SOUP = "trunk", "branch", "stage", "average", "soup"
DATA = ("corpus", "tokenizer")


def lineage(plan) -> list[dict]:
    """One row for each trajectory of the study and all that they derive from, by name.

    Returns:
        trajectory; root, the run at the start of its chain of parents; kind: trunk, branch (trained on from another),
        stage (a published run that goes on from another, on data of its own), average or soup; parent and
        parent_step, where it left that; seed, None if it was not trained here; stage, soup_of, as in its file;
        weight_decay, None if unknown; decay_start and decay_end, steps between which the rate falls last, counted as
        those of checkpoints, None if it never does; decay_rate, the rate at decay_start; settings, every scalar
        setting by its dotted key.
    """
    return [_row(plan.trajectories[name]) for name in sorted(plan.trajectories)]


def _row(run: Trajectory) -> dict:
    schedule, before = getattr(run, "schedule", None), getattr(run, "before", {"step": 0})["step"]
    start, end = falling(schedule) if schedule else (None, None)
    optimizer = getattr(run, "optimizer", None) or {}
    return {
        "trajectory": run.name,
        "root": _root(run).name,
        "kind": _kind(run),
        "parent": _parent(run).name if _parent(run) else None,
        "parent_step": getattr(run, "start", before) if _parent(run) and not isinstance(run, Averaged) else None,
        "seed": getattr(_root(run), "seed", None),
        "stage": getattr(run, "stage", None),
        "soup_of": list(getattr(run, "soup_of", ())),
        "weight_decay": optimizer.get("weight_decay"),
        "decay_start": None if start is None else before + start,
        "decay_end": None if end is None else before + end,
        "decay_rate": None if start is None else float(schedules.learning_rate(schedule, start)),
        "settings": settings(run),
    }


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


def settings(run: Trajectory) -> dict:
    """Every scalar setting of a run, as in its file or inherited, by its dotted key; nothing of averages."""
    if isinstance(run, Trained):
        content = run.shaping | {name: getattr(run, name) for name in DATA}
    elif isinstance(run, Published):
        content = {"model": run.shape, "optimizer": run.optimizer or {}, "schedule": run.schedule}
    else:
        content = {}
    return dict(_scalars(content, ""))


def _scalars(content, key: str):
    if isinstance(content, dict):
        for name, value in content.items():
            yield from _scalars(value, f"{key}.{name}" if key else name)
    elif not isinstance(content, list) and content is not None:
        yield key, content


def _parent(run: Trajectory) -> Trajectory | None:
    return run.of if isinstance(run, Averaged) else getattr(run, "parent", None)


def _root(run: Trajectory) -> Trajectory:
    return _root(_parent(run)) if _parent(run) else run


def _kind(run: Trajectory) -> str:
    if isinstance(run, Averaged):
        return AVERAGE
    if getattr(run, "soup_of", ()):
        return SOUP
    if _parent(run) is None:
        return TRUNK
    return BRANCH if isinstance(run, Trained) else STAGE
