"""Drawing of lines: their curves, their noise, their learning rates and their ends, on axes that a figure gives."""

from collections.abc import Iterable
from itertools import groupby, pairwise

import numpy as np
import polars as pl
from matplotlib.lines import Line2D
from matplotlib.transforms import blended_transform_factory

from scripts.lib.analysis.metrics import Metric, rows_of
from scripts.lib.analysis.tracks import AVERAGE, BRANCH, Track
from scripts.lib.report import figures
from scripts.lib.report.figures import MARKERS
from scripts.lib.report.lines import LINES, MANY, Drawing, Line

MANY_POINTS = 40  # above this a line has no markers
MOST_LABELS = 6  # at the ends of lines, instead of a legend
THIN, THICK = 0.7, 1.7
GAP = 0.6  # between methods, in rows
Cells = dict[tuple[str, str, str], pl.DataFrame]
Rows = list[tuple[float, str, Line]]  # height, method, line


def cells_of(measurements: pl.DataFrame, metric: Metric) -> Cells:
    """Measurements of one metric on all tokens by (dataset, method, trajectory), each sorted by step."""
    part = rows_of(measurements, metric).sort("step", "checkpoint")
    return part.partition_by("dataset", "method", "trajectory", as_dict=True)


def curve_of(cells: Cells, track: Track, dataset: str, method: str) -> pl.DataFrame | None:
    """A track's rows, None without any; those of a branch begin with the checkpoint that it left."""
    own = cells.get((dataset, method, track.name))
    parent = cells.get((dataset, method, track.parent or ""))
    if own is None or track.kind != BRANCH or parent is None:
        return own
    return pl.concat([parent.filter(pl.col("checkpoint") == track.start), own])


def curves_of(cells: Cells, line: Line, dataset: str, method: str) -> list[pl.DataFrame]:
    """The curves of a line, one a seed."""
    found = (curve_of(cells, track, dataset, method) for track in line.tracks)
    return [curve for curve in found if curve is not None]


def mean_of(curves: list[pl.DataFrame], *columns: str) -> pl.DataFrame:
    """The mean over seeds at each step that all of them have: tokens and the columns."""
    rows = pl.concat([curve.select("step", "tokens", *columns) for curve in curves])
    found = rows.group_by("step").agg(pl.len().alias("seeds"), pl.col("tokens", *columns).mean())
    return found.filter(pl.col("seeds") == len(curves)).sort("step")


def draw_line(
    axis, line: Line, curves: list[pl.DataFrame], column: str, across: str = "tokens", color=None, marker=None
) -> pl.DataFrame | None:
    """A line: its seeds thin, their mean thick; averages are markers alone. Returns the mean, None without curves.

    Args:
        color, marker: instead of the line's own.
    """
    if not curves:
        return None
    color = line.color if color is None else color
    mean = mean_of(curves, *{column, across} - {"tokens"})
    if len(curves) > 1:
        for curve in curves:
            style = {"linestyle": line.dashes, "linewidth": THIN, "alpha": 0.55, "zorder": 2}
            dot = "." if len(curve) == 1 or line.kind == AVERAGE else None
            axis.plot(curve[across], curve[column], color=color, marker=dot, markersize=3, **style)
    few = len(mean) <= MANY_POINTS or line.kind == AVERAGE
    style = {"linestyle": line.dashes, "linewidth": THICK, "zorder": 3}
    face = "white" if line.kind == AVERAGE else color
    style |= {"marker": (marker or line.marker) if few else None, "markersize": 6 if line.kind == AVERAGE else 4.5}
    edge = {"markerfacecolor": face, "markeredgecolor": color if line.kind == AVERAGE else "white"}
    edge["markeredgewidth"] = 1.4 if line.kind == AVERAGE else 0.5
    axis.plot(mean[across], mean[column], color=color, **style, **edge)
    return mean


def draw_intervals(axis, line: Line, curve: pl.DataFrame) -> None:
    """The intervals of `relative` over tokens: an area along a line, bars where there is no line."""
    curve = curve.drop_nulls(["lower", "upper"])
    x, lower, upper = (curve[name].to_numpy() for name in ("tokens", "lower", "upper"))
    if line.kind == AVERAGE or len(curve) == 1:
        axis.vlines(x, lower, upper, color=line.color, linewidth=1.2, zorder=2)
    else:
        axis.fill_between(x, lower, upper, color=line.color, alpha=0.18, linewidth=0, zorder=1)


def draw_noise(axis, line: Line, mean: pl.DataFrame | None, column: str, half_width: float | None, ratio: bool) -> None:
    """What noise alone would do to one cell, around the mean: an area along a line, bars where there is no line.

    Args:
        half_width: in the unit of the column, or as a log ratio where `ratio`; None if nothing is known of noise.
    """
    if mean is None or not half_width:
        return
    x, value = mean["tokens"].to_numpy(), mean[column].to_numpy()
    lower, upper = (value * np.exp(half * half_width) if ratio else value + half * half_width for half in (-1, 1))
    if line.kind == AVERAGE or len(mean) == 1:
        axis.vlines(x, lower, upper, color=line.color, linewidth=4, alpha=0.25, zorder=1)
    else:
        axis.fill_between(x, lower, upper, color=line.color, alpha=0.15, linewidth=0, zorder=1)


def draw_labels(axis, ends: list[tuple[float, str, object]]) -> None:
    """Texts right of a panel, beside the heights where lines end, moved apart where they would overlap.

    Args:
        ends: height in the panel's data, text, colour.
    """
    bottom, top = axis.get_ylim()
    log = axis.get_yscale() == "log"
    places = [_share(height, bottom, top, log) for height, _, _ in ends]
    height = axis.get_position().height * axis.figure.get_size_inches()[1]
    gap = 0.19 / height
    order = sorted(range(len(ends)), key=lambda number: places[number])
    for before, here in pairwise(order):
        places[here] = max(places[here], places[before] + gap)
    over = max([0.0, *(place - 1 for place in places)])
    at = blended_transform_factory(axis.transAxes, axis.transAxes)
    for place, (_, text, color) in zip(places, ends, strict=True):
        axis.text(1.02, max(place - over, 0), text, color=color, transform=at, va="center", fontsize=9)


def _share(height: float, bottom: float, top: float, log: bool) -> float:
    values = np.log([height, bottom, top]) if log else np.array([height, bottom, top])
    return float(np.clip((values[0] - values[1]) / (values[2] - values[1]), 0, 1))


def rates_of(track: Track, tracks: dict[str, Track], schedules: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and learning rates of a track: from its schedule if given, else at its checkpoints."""
    schedule = schedules.filter(pl.col("trajectory") == track.name)
    if len(schedule):
        return schedule["tokens"].to_numpy(), schedule["learning_rate"].to_numpy()
    points = track.points
    if track.start and track.parent in tracks:
        parent = tracks[track.parent].points
        points = pl.concat([parent.filter(pl.col("checkpoint") == track.start), points])
    points = points.drop_nulls("learning_rate")
    return points["tokens"].to_numpy(), points["learning_rate"].to_numpy()


def draw_rate_area(axis, members: list[Line], drawn: Drawing, schedules: pl.DataFrame, highest: float):
    """Learning rates as grey areas behind a panel, on an axis of their own at its right side, which is returned."""
    twin = axis.twinx()
    axis.set_zorder(twin.get_zorder() + 1)
    axis.patch.set_visible(False)
    for line in members:
        if line.kind != AVERAGE:
            tokens, rates = rates_of(line.tracks[0], drawn.tracks, schedules)
            twin.fill_between(tokens, 0, rates, color="0.92", linewidth=0)
            twin.plot(tokens, rates, color="0.78", linewidth=1, linestyle=line.dashes)
    figures.rate_axis(twin, highest, room=2.5)
    twin.tick_params(axis="y", colors=figures.RATE_COLOR)
    return twin


def draw_rates(axis, drawn: Drawing, schedules: pl.DataFrame, highest: float) -> None:
    """Learning rates of all lines, for a strip below a panel."""
    for line in drawn.lines:
        if line.kind != AVERAGE:
            tokens, rates = rates_of(line.tracks[0], drawn.tracks, schedules)
            marker = "." if len(tokens) == 1 else None
            axis.plot(tokens, rates, color=line.color, linestyle=line.dashes, marker=marker, linewidth=1.3)
    figures.rate_axis(axis, highest)


def rows_of_ends(lines: Iterable[Line], methods: list[str], ends: Iterable[tuple[str, str]]) -> Rows:
    """A row for each method and line of which something was measured, in blocks by method.

    Args:
        ends: (method, trajectory) of what was measured.
    """
    known, found, height = set(ends), [], 0.0
    for method in methods:
        block = [line for line in lines if any((method, track.name) in known for track in line.tracks)]
        found += [(height + place, method, line) for place, line in enumerate(block)]
        height += len(block) + (GAP if block else 0)
    return found


def draw_ends(axis, rows: Rows, ends: dict[tuple[str, str], dict], column: str) -> None:
    """In each row the line's seeds as small dots and their mean large; one seed with its interval.

    Args:
        rows: as of `rows_of_ends`.
        ends: by (method, trajectory) the last row of what was measured, with the column, maybe `lower` and `upper`.
        column: what is drawn.
    """
    for height, method, line in rows:
        found = [ends[method, track.name] for track in line.tracks if (method, track.name) in ends]
        found = [row for row in found if row[column] is not None]
        if not found:
            continue
        values = [row[column] for row in found]
        if len(found) > 1:
            axis.plot(values, [height] * len(found), ".", color=line.color, alpha=0.6, markersize=4, mew=0)
        elif found[0].get("lower") is not None:
            axis.hlines(height, found[0]["lower"], found[0]["upper"], color=line.color, linewidth=1.4)
        edge = line.color if line.kind == AVERAGE else "white"
        style = {"markerfacecolor": line.face, "markeredgecolor": edge, "markersize": 6, "mew": 0.9}
        axis.plot(np.mean(values), height, line.marker, color=line.color, **style)


def label_rows(axis, rows: Rows) -> None:
    """Name every row at the left of a panel of ends."""
    axis.set_yticks([height for height, _, _ in rows], [line.label for _, _, line in rows], fontsize=8)
    axis.set_ylim(rows[-1][0] + 0.8, -0.8)


def name_blocks(axis, rows: Rows, named: bool) -> None:
    """Draw lines between the methods' blocks of a panel of ends, and name them at its right."""
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    place = axis.get_yaxis_transform()
    for method, block in groupby(rows, key=lambda row: row[1]):
        heights = [height for height, _, _ in block]
        if heights[0] > 0:
            axis.axhline(heights[0] - (1 + GAP) / 2, color="0.75", linewidth=0.8)
        if named:
            axis.text(1.03, np.mean(heights), method, transform=place, va="center", fontsize=9, weight="bold")


def group_entries(drawn: Drawing) -> list[Line2D]:
    """Legend entries of groups by colour and marker; none where nothing varies."""
    if len(drawn.groups) < 2:
        return []
    firsts = [drawn.of_group(group)[0] for group in drawn.groups]
    style = {"linewidth": 3, "markersize": 6, "markeredgecolor": "white"}
    return [Line2D([], [], color=line.color, marker=line.marker, label=line.group, **style) for line in firsts]


def kind_entries(drawn: Drawing, plain: bool = False) -> list[Line2D]:
    """Legend entries of runs, branches and averages; `plain` where colours and markers say something else."""
    several = plain or len(drawn.groups) > 1
    found = []
    for kind in drawn.kinds:
        line = next(line for line in drawn.lines if line.kind == kind)
        color = figures.INK if several else line.color
        face = "white" if kind == AVERAGE else color
        style = {"markersize": 5, "markerfacecolor": face, "linewidth": THICK}
        marker = (None if plain and kind != AVERAGE else MARKERS[0]) if several else line.marker
        found.append(Line2D([], [], color=color, linestyle=LINES[kind], marker=marker, label=MANY[kind], **style))
    return found


def seed_entries(drawn: Drawing) -> list[Line2D]:
    """The legend entry of thin lines, where a line has several seeds."""
    if all(len(line.tracks) == 1 for line in drawn.lines):
        return []
    return [Line2D([], [], color=figures.INK, linewidth=THIN, alpha=0.6, label="single seeds (thick: their mean)")]
