"""What a study varies, and in which colour, marker and line each of its trajectories is drawn.

A *factor* is a setting that differs between trunks, or between branches that leave one checkpoint; seeds are none, for
runs that differ in them alone repeat each other. Trajectories with the same values of all factors are a *group*: one
colour and one marker. A *line* is what repeats itself within a group: the members of a family
that left their parents at the same checkpoint, by seed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import polars as pl
import seaborn

from scripts.lib.analysis.tracks import AVERAGE, BRANCH, KINDS, TRUNK, Track, short_rate, tracks
from scripts.lib.report.figures import MARKERS, method_markers

SEEDS = ("seed", "data_seed")
IDENTITY = ("trajectory", "family", "root", "kind", "parent", "parent_checkpoint")
PEAK = "schedule.peak"
WORDS = {  # of settings that their path says badly
    PEAK: "peak rate",
    "schedule.name": "schedule",
    "optimizer.name": "optimizer",
}
LINES = {TRUNK: "-", BRANCH: "--", AVERAGE: "none"}
KIND_WORDS = {TRUNK: "run", BRANCH: "branch", AVERAGE: "average"}
MANY = {TRUNK: "runs", BRANCH: "branches", AVERAGE: "averages"}
KIND_COLORS = {TRUNK: "#0072b2", BRANCH: "#d55e00", AVERAGE: "#009e73"}  # Okabe and Ito's, where nothing varies
SMALL = 1e-2  # below it numbers are written as rates are


@dataclass(frozen=True)
class Line:
    """Trajectories that differ in their seed alone, and how they are drawn.

    Attributes:
        tracks: the trajectories.
        kind: trunk, branch or average.
        group: what tells it from others, in words; empty where nothing varies.
        label: the group with the kind, and where a branch begins.
        color, marker: the group's; where nothing varies the kind's.
    """

    tracks: tuple[Track, ...]
    kind: str
    group: str
    label: str
    color: object
    marker: str

    @property
    def dashes(self) -> str:
        return LINES[self.kind]

    @property
    def face(self):
        """Markers of averages are hollow."""
        return "white" if self.kind == AVERAGE else self.color


@dataclass(frozen=True)
class Drawing:
    """All lines of a study in their order, and its groups."""

    lines: tuple[Line, ...]
    groups: tuple[str, ...]
    tracks: dict[str, Track] = field(default_factory=dict)

    def of_group(self, group: str) -> list[Line]:
        return [line for line in self.lines if line.group == group]

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in KINDS if any(line.kind == kind for line in self.lines)]


def drawing(checkpoints: pl.DataFrame, runs: pl.DataFrame) -> Drawing:
    """How the trajectories of a study are drawn, from its tables."""
    rows = {row["trajectory"]: row for row in runs.iter_rows(named=True)}
    found = [replace(t, kind=rows[t.name]["kind"], family=rows[t.name]["root"]) for t in tracks(checkpoints)]
    groups = _groups(found, rows, factors(runs))
    found.sort(key=lambda track: (groups[track.name][0], KINDS.index(track.kind)))
    members: dict[tuple, list[Track]] = {}
    for track in found:
        key = groups[track.name][1], track.kind, rows[track.name]["family"], track.start
        members.setdefault(key, []).append(track)
    names = list(dict.fromkeys(key[0] for key in members))
    colors, markers, labels = _colors(names, factors(runs)), method_markers(names), _labels(members)
    several = len(names) > 1
    lines = tuple(
        Line(
            tuple(part),
            kind,
            group,
            labels[group, kind, family, start],
            colors[group] if several else KIND_COLORS[kind],
            markers[group] if several else MARKERS[KINDS.index(kind)],
        )
        for (group, kind, family, start), part in members.items()
    )
    return Drawing(lines, tuple(names), {track.name: track for track in found})


def factors(runs: pl.DataFrame) -> list[str]:
    """Columns of `runs` that a study varies; of several that always move together, one."""
    settings = [name for name in runs.columns if name not in (*IDENTITY, *SEEDS)]
    trunks, branches = (runs.filter(pl.col("kind") == kind) for kind in (TRUNK, BRANCH))
    together = [part for _, part in branches.group_by("parent", "parent_checkpoint", maintain_order=True)]
    parts = [trunks, *together]
    varied = [name for name in settings if any(part[name].drop_nulls().n_unique() > 1 for part in parts)]
    for name in sorted(varied, key=lambda name: (-name.count("."), name), reverse=True):
        others = [other for other in varied if other != name]
        if others and all(_kinds(part, others) == _kinds(part, varied) for part in parts):
            varied = others
    return varied


def setting(name: str, value) -> str:
    """A setting with its value as people write it: `weight decay 0.5`, `peak rate 3e-3`."""
    return f"{setting_name(name)} {short_rate(value) if name == PEAK else setting_value(value)}"


def setting_name(name: str) -> str:
    return WORDS.get(name, name.partition(".")[2].replace(".", " ").replace("_", " ") or name.replace("_", " "))


def setting_value(value) -> str:
    if isinstance(value, float):
        return short_rate(value) if 0 < abs(value) < SMALL else f"{value:g}"
    return str(value)


def _kinds(part: pl.DataFrame, names: list[str]) -> int:
    return part.select(names).n_unique()


def _groups(found: list[Track], rows: dict[str, dict], varied: list[str]) -> dict[str, tuple[tuple, str]]:
    """(order, name) of the group of each trajectory: values of the factors, its trunk's where it has none of its own;
    without any the family of its trunk; nothing where all are of one family and nothing varies."""
    trunks = {track.name: rows.get(track.family, {"family": track.family})["family"] for track in found}
    alone = not varied and len(set(trunks.values())) == 1
    groups = {}
    for track in found:
        own, root = rows[track.name], rows.get(track.family, {})
        values = {name: root.get(name) if own[name] is None else own[name] for name in varied}
        known = {name: value for name, value in values.items() if value is not None}
        if known:
            order = (0, *((isinstance(value, str), value) for value in known.values()))
            groups[track.name] = order, ", ".join(setting(*item) for item in known.items())
        else:
            name = "" if alone else trunks[track.name]
            groups[track.name] = (1, name), name
    return groups


def _labels(members: Iterable[tuple]) -> dict[tuple, str]:
    """Label of every line: group, kind and the start of a branch; with the family where two would be the same."""
    labels = {}
    for group, kind, family, start in members:
        begins = f" from {start.replace('-', ' ')}" if start else ""
        labels[group, kind, family, start] = " · ".join(filter(None, [group, KIND_WORDS[kind] + begins]))
    several = [label for label in labels.values() if list(labels.values()).count(label) > 1]
    return {key: f"{label} ({key[2]})" if label in several else label for key, label in labels.items()}


def _colors(groups: list[str], varied: list[str]) -> dict[str, object]:
    """Colours of groups, told apart by the colour-blind too: by lightness along one varied setting, else by hue."""
    palette = seaborn.color_palette("colorblind")
    if len(varied) == 1 or len(groups) > len(palette):
        scale, step = seaborn.color_palette("plasma", as_cmap=True), 0.68 / max(len(groups) - 1, 1)
        return {group: scale(0.05 + step * place) for place, group in enumerate(groups)}
    return dict(zip(groups, palette, strict=False))
