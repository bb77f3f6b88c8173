"""The trajectories of a study that have checkpoints, in the order in which figures and tables show them."""

from dataclasses import dataclass

import polars as pl

TRUNK, BRANCH, AVERAGE = "trunk", "branch", "average"
KINDS = (TRUNK, BRANCH, AVERAGE)


@dataclass(frozen=True)
class Track:
    """One trajectory, as the tables `runs` and `checkpoints` have it.

    Attributes:
        name: the trajectory.
        family: of trajectories from one file; members that differ in their seed alone are replicates.
        kind: trunk, branch (it starts from another trajectory's checkpoint) or average.
        parent: the trajectory that it comes from; None for a trunk.
        start: checkpoint of the parent where a branch starts; None for others, and where it is not known.
        root: the trunk that it descends from.
        points: its rows of the table `checkpoints`, by step.
    """

    name: str
    family: str
    kind: str
    parent: str | None
    start: str | None
    root: str
    points: pl.DataFrame


def tracks(checkpoints: pl.DataFrame, runs: pl.DataFrame) -> list[Track]:
    """Every trajectory that has a checkpoint, sorted by root, kind (trunk, branch, average), first step and name."""
    points = {key[0]: part.sort("step") for key, part in checkpoints.group_by("trajectory")}
    found = [
        Track(
            *(run[name] for name in ("trajectory", "family", "kind", "parent")),
            run["parent_checkpoint"] if run["kind"] == BRANCH else None,
            run["root"],
            points[run["trajectory"]],
        )
        for run in runs.iter_rows(named=True)
        if run["trajectory"] in points
    ]
    return sorted(found, key=lambda t: (t.root, KINDS.index(t.kind), t.points["step"][0], t.name))


def short_rate(rate: float) -> str:
    """A learning rate as people write it: 3e-3, 1.5e-4, 0."""
    if rate == 0:
        return "0"
    digits, _, exponent = f"{rate:.3e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


def short_count(count: float) -> str:
    """A number of tokens or parameters as people write it: 400, 1.5 K, 7 M, 20 B, 11 T."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.3g}"
