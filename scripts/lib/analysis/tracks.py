"""Which trajectory grew out of which: trunks, branches and averages, read off the table `checkpoints`."""

from dataclasses import dataclass

import polars as pl

TRUNK, BRANCH, AVERAGE = "trunk", "branch", "average"
KINDS = (TRUNK, BRANCH, AVERAGE)


@dataclass(frozen=True)
class Track:
    """One trajectory and its place among the others.

    Attributes:
        name: the trajectory.
        kind: trunk, branch (it starts from another trajectory's checkpoint) or average.
        parent: the trajectory that it comes from; None for a trunk.
        start: checkpoint of the parent where a branch starts; None for others.
        family: name of the trunk that it descends from.
        peak: peak learning rate of that trunk; None if unknown.
        points: its rows of the table `checkpoints`, by step.
    """

    name: str
    kind: str
    parent: str | None
    start: str | None
    family: str
    peak: float | None
    points: pl.DataFrame


def tracks(checkpoints: pl.DataFrame) -> list[Track]:
    """Every trajectory of the table, sorted by peak rate, family, kind (trunk, branch, average) and name.

    A `parent` is written `trajectory/checkpoint` or just `trajectory`; in the second case a branch starts at the
    parent's last checkpoint before its own first. A parent outside the table makes the trajectory a trunk.
    """
    points = {key[0]: part.sort("step") for key, part in checkpoints.group_by("trajectory")}
    origins = {name: _origin(name, part, points) for name, part in points.items()}
    found = []
    for name, part in points.items():
        parent, start = origins[name]
        family = _root(name, origins)
        averaged = part["source"][0] == "average" or part["phase"][0] == "average"
        kind = AVERAGE if averaged else BRANCH if parent else TRUNK
        found.append(Track(name, kind, parent, None if averaged else start, family, _peak(points[family]), part))
    return sorted(found, key=lambda t: (t.peak or 0.0, t.family, KINDS.index(t.kind), t.points["step"][0], t.name))


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


def _origin(name: str, part: pl.DataFrame, points: dict[str, pl.DataFrame]) -> tuple[str | None, str | None]:
    """(parent trajectory, parent checkpoint) of a trajectory, from its first checkpoint."""
    parent, _, checkpoint = (part["parent"][0] or "").partition("/")
    if parent == name or parent not in points:
        return None, None
    if not checkpoint:
        before = points[parent].filter(pl.col("step") < part["step"][0])
        checkpoint = before["checkpoint"][-1] if len(before) else None
    return parent, checkpoint


def _root(name: str, origins: dict[str, tuple]) -> str:
    seen = {name}
    while (parent := origins[name][0]) and parent not in seen:
        name = parent
        seen.add(name)
    return name


def _peak(points: pl.DataFrame) -> float | None:
    """The manifests' peak rate, else the highest rate of any checkpoint."""
    peak = points["peak_learning_rate"].max()
    return peak if peak is not None else points["learning_rate"].max()
