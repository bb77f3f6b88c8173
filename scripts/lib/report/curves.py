"""Drawing of trajectories: their curves, their learning rates and their end points, on axes that a figure gives."""

import numpy as np
import polars as pl
from matplotlib.lines import Line2D

from scripts.lib.analysis.metrics import Metric, rows_of
from scripts.lib.analysis.tracks import AVERAGE, BRANCH, Track
from scripts.lib.report import figures
from scripts.lib.report.figures import LINES, MARKERS

MANY_POINTS = 40  # above this a line has no markers
Cells = dict[tuple[str, str, str], pl.DataFrame]


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


def draw_curve(axis, track: Track, curve: pl.DataFrame | None, column: str, color, across: str = "tokens") -> None:
    """One track as a line over `across`; branches are dashed, averages are markers without a line."""
    if curve is None:
        return
    marker = MARKERS[track.kind] if len(curve) <= MANY_POINTS or track.kind == AVERAGE else None
    style = {"linestyle": LINES[track.kind], "marker": marker, "markersize": 5 if track.kind == AVERAGE else 3.5}
    x, y = curve[across].to_numpy(), curve[column].to_numpy()
    axis.plot(x, y, color=color, markeredgecolor="white", markeredgewidth=0.5, zorder=3, **style)


def draw_band(axis, track: Track, curve: pl.DataFrame | None, color) -> None:
    """The intervals of `relative` over tokens: an area along a line, bars where there is no line."""
    if curve is None:
        return
    curve = curve.drop_nulls(["lower", "upper"])
    x, lower, upper = (curve[name].to_numpy() for name in ("tokens", "lower", "upper"))
    if track.kind == AVERAGE or len(curve) == 1:
        axis.vlines(x, lower, upper, color=color, linewidth=1.2, zorder=2)
    else:
        axis.fill_between(x, lower, upper, color=color, alpha=0.2, linewidth=0, zorder=2)


def rates_of(track: Track, found: list[Track], schedules: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and learning rates of a track: from its schedule if given, else at its checkpoints."""
    schedule = schedules.filter(pl.col("trajectory") == track.name)
    if len(schedule):
        return schedule["tokens"].to_numpy(), schedule["learning_rate"].to_numpy()
    points = track.points
    if track.start:
        parent = next(other for other in found if other.name == track.parent).points
        points = pl.concat([parent.filter(pl.col("checkpoint") == track.start), points])
    points = points.drop_nulls("learning_rate")
    return points["tokens"].to_numpy(), points["learning_rate"].to_numpy()


def draw_rate_area(axis, members: list[Track], found: list[Track], schedules: pl.DataFrame, highest: float):
    """Learning rates as grey areas behind a panel, on an axis of their own at its right side, which is returned."""
    twin = axis.twinx()
    axis.set_zorder(twin.get_zorder() + 1)
    axis.patch.set_visible(False)
    for track in members:
        if track.kind != AVERAGE:
            tokens, rates = rates_of(track, found, schedules)
            twin.fill_between(tokens, 0, rates, color="0.92", linewidth=0)
            twin.plot(tokens, rates, color="0.78", linewidth=1, linestyle=LINES[track.kind])
    figures.rate_axis(twin, highest, room=2.5)
    twin.tick_params(axis="y", colors=figures.RATE_COLOR)
    return twin


def draw_rate_lines(axis, found: list[Track], schedules: pl.DataFrame, colors: dict, highest: float) -> None:
    """Learning rates as lines in the colours of their families, for a strip below a panel."""
    for track in found:
        if track.kind != AVERAGE:
            tokens, rates = rates_of(track, found, schedules)
            style = {"linestyle": LINES[track.kind], "marker": "." if len(tokens) == 1 else None, "linewidth": 1.3}
            axis.plot(tokens, rates, color=colors[track.family], **style)
    figures.rate_axis(axis, highest)


def draw_ends(axis, found: list[Track], methods: list[str], ends: dict[tuple[str, str], pl.DataFrame | None]) -> None:
    """A block of rows a method, a row a track: all its checkpoints as small dots, the last one with its interval.

    Args:
        ends: rows by (method, trajectory), with `relative`, `lower` and `upper`; None where nothing was measured.
    """
    colors = figures.sequence_colors(list(dict.fromkeys(track.family for track in found)))
    for block, method in enumerate(methods):
        for place, track in enumerate(found):
            cell = ends.get((method, track.name))
            cell = None if cell is None else cell.drop_nulls("relative")
            if cell is None or cell.is_empty():
                continue
            height, color = block + 0.8 * ((place + 0.5) / len(found) - 0.5), colors[track.family]
            last = cell.row(-1, named=True)
            axis.plot(
                cell["relative"][:-1], [height] * (len(cell) - 1), ".", color=color, alpha=0.45, markersize=5, mew=0
            )
            if last["lower"] is not None:
                axis.hlines(height, last["lower"], last["upper"], color=color, linewidth=1.4)
            axis.plot(last["relative"], height, MARKERS[track.kind], color=color, markersize=5.5, mec="white", mew=0.6)
    axis.set_yticks(range(len(methods)), methods)
    axis.set_ylim(len(methods) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    for border in range(1, len(methods)):
        axis.axhline(border - 0.5, color="0.9", linewidth=0.8)


def family_entries(labels: dict[str, str]) -> list[Line2D]:
    """Legend entries for families by colour."""
    colors = figures.sequence_colors(list(labels))
    return [Line2D([], [], color=colors[family], linewidth=3, label=label) for family, label in labels.items()]
