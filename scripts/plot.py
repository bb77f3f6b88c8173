"""plot: the figures of a study, one function a figure, from the tables alone."""

import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scripts.lib.analysis.metrics import (
    CROSS_ENTROPY,
    DROP,
    KL,
    METRICS,
    TASK,
    TOP1_AGREEMENT,
    error_words,
    first_draws,
    rows_in,
    rows_of,
)
from scripts.lib.analysis.tracks import AVERAGE
from scripts.lib.report import contents, curves, figures, forest
from scripts.lib.report import laws as of_laws
from scripts.lib.report import mechanism as of_mechanism
from scripts.lib.report.figures import BASELINE
from scripts.lib.report.lines import KIND_WORDS, Drawing, drawing

NOTHING_MEASURED = "No loss was measured in this study."
NOTHING_QUANTIZED = "The loss of no quantized model was measured in this study."
TOO_LITTLE = "Too little was measured for this figure; what there is stands in the tables."
NOTHING_TRAINED = "No run of this study was trained here."
NO_TASKS = "No tasks were evaluated on quantized models in this study."
LEAST_DOTS = 3  # of a panel
MOST_MAIN = 2  # methods in the main figure
FEW_BITS = 4  # most bits of a method that the figure of losses shows
Tables = dict[str, pl.DataFrame]
Place = tuple[str, str]  # method, dataset


def plot(name: str, theme: dict, tables: Tables, **files: Path) -> None:
    """Draw one figure of `FIGURES` and write it.

    Args:
        name: which figure.
        theme: the config's section `plot`.
        tables: `measurements`, `checkpoints`, `schedules`, `training`, `runs`, `verdicts`, `noise` and, if they are
            there, `mechanism` and `laws` of the study; a trajectory that is not in `schedules` gets its learning rates
            from its checkpoints.
        files: output files by their kinds: `svg`, `png`, `pdf`.

    Raises:
        ValueError: there is no such figure.
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}; figures are {', '.join(FIGURES)}")
    figures.use_style(theme)
    measurements = first_draws(tables["measurements"])
    figures.save(FIGURES[name](tables | {"measurements": measurements}), **files)


def overview(tables: Tables) -> Figure:
    """KL and loss after quantization against tokens, a column a method that decides a claim, rates in a strip below.

    Around each mean of seeds is what noise does to one cell: two standard deviations, of what the study replicates.
    """
    drawn, measurements = drawing(tables["checkpoints"], tables["runs"]), _quantized(tables["measurements"])
    losses, kls = (curves.cells_of(measurements, metric) for metric in (CROSS_ENTROPY, KL))
    places = _main_places(tables, _places(measurements, losses))
    if not losses or not places:
        return figures.placeholder(NOTHING_QUANTIZED if not losses else TOO_LITTLE)
    figure, axes = figures.grid(len(places), (1.0, 1.0, 0.36), 2.5, sharex=True)
    limits = figures.focus(pl.concat([c for key, c in losses.items() if (key[1], key[0]) in places])["value"].to_list())
    for column, (method, dataset) in enumerate(places):
        upper, lower, strip = axes[:, column]
        ends = {upper: [], lower: []}
        for axis, cells, measure in ((upper, kls, KL.name), (lower, losses, "loss")):
            half_width = noise_of_a_cell(tables["noise"], measure, method, dataset)
            for line in drawn.lines:
                mean = curves.draw_line(axis, line, curves.curves_of(cells, line, dataset, method), "value")
                curves.draw_noise(axis, line, mean, "value", half_width, ratio=axis is upper)
                if mean is not None and len(mean):
                    ends[axis].append((mean["tokens"][-1], mean["value"][-1], line))
        figures.positive_axis(upper)
        lower.set_ylim(limits)
        upper.set_title(_title(method, dataset, losses))
        for axis, words in ((upper, "KL (nats per token)"), (lower, "loss after quantization\n(nats per token)")):
            axis.set_ylabel(words if column == 0 else "")
        _draw_strip(strip, drawn, tables, named=column == 0)
        if column + 1 == len(places):
            _label_ends(ends, drawn)
    noisy = tables["noise"]["standard_deviation"].is_not_null().any()
    band = [Patch(color="0.85", label="noise of one cell (2 standard deviations)")] if noisy else []
    figures.legend(figure, [*_line_entries(drawn, labelled=True), *band])
    return figure


def claims(tables: Tables) -> Figure:
    """Every claim's effect with its interval, in units of the smallest effect that matters, on the claimed side."""
    return forest.draw(tables["verdicts"])


def loss_vs_tokens(tables: Tables) -> Figure:
    """Loss of the baseline and of models of few bits against tokens, the rate as a grey area on a second axis."""
    drawn, measurements = drawing(tables["checkpoints"], tables["runs"]), tables["measurements"]
    shown = measurements.filter((pl.col("method") == BASELINE) | (pl.col("bits") <= FEW_BITS))
    cells, methods = curves.cells_of(shown, CROSS_ENTROPY), method_order(shown)
    if not cells:
        return figures.placeholder(NOTHING_MEASURED)
    colors, markers = figures.method_colors(method_order(measurements)), figures.method_markers(methods)
    places = [(group, dataset) for group in drawn.groups for dataset in _datasets(cells)]
    places = [place for place in places if _dots_of_group(drawn, cells, *place) >= LEAST_DOTS]
    if not places:
        return figures.placeholder(TOO_LITTLE)
    figure, axes, _ = figures.panels(len(places), 2, 3.6, sharey=True)
    limits = figures.focus(pl.concat(cells.values())["value"].to_list())
    highest = tables["checkpoints"]["learning_rate"].max()
    for number, (axis, (group, dataset)) in enumerate(zip(axes, places, strict=True)):
        members = drawn.of_group(group)
        twin = curves.draw_rate_area(axis, members, drawn, tables["schedules"], highest)
        for line in members:
            for method in reversed(methods):
                found = curves.curves_of(cells, line, dataset, method)
                curves.draw_line(axis, line, found, "value", color=colors[method], marker=markers[method])
        axis.set_ylim(limits)
        axis.set_title(_title(group, dataset, cells))
        figures.token_axis(axis)
        axis.set_ylabel("cross-entropy (nats per token)" if number % 2 == 0 else "")
        twin.set_ylabel("learning rate" if number % 2 or number + 1 == len(places) else "", color=figures.RATE_COLOR)
    names = {BASELINE: "none (baseline)"}
    style = {"linewidth": 2, "markersize": 5, "markeredgecolor": "white"}
    entries = [
        Line2D([], [], color=colors[method], marker=markers[method], label=names.get(method, method), **style)
        for method in methods
    ]
    entries.append(Patch(color="0.9", label="learning rate (right axis)"))
    figures.legend(figure, [*entries, *curves.kind_entries(drawn, plain=True), *curves.seed_entries(drawn)])
    return figure


def error_vs_tokens(tables: Tables) -> Figure:
    """Relative error of every method against tokens, with its paired interval where there is one seed; rates below."""
    drawn, measurements = drawing(tables["checkpoints"], tables["runs"]), _quantized(tables["measurements"])
    cells = curves.cells_of(measurements, CROSS_ENTROPY)
    places = _places(measurements, cells)
    if not places:
        return figures.placeholder(TOO_LITTLE if cells else NOTHING_QUANTIZED)
    columns = 2 if len(places) in (1, 2, 4) else 3
    figure, axes, strips = figures.panels(len(places), columns, 2.5, strip=True, sharex=True)
    for number, (axis, (method, dataset)) in enumerate(zip(axes, places, strict=True)):
        for line in drawn.lines:
            found = curves.curves_of(cells, line, dataset, method)
            curves.draw_line(axis, line, found, "relative")
            if len(found) == 1:
                curves.draw_intervals(axis, line, found[0])
        axis.set_title(_title(method, dataset, cells))
        figures.zero_axis(axis)
        figures.percent_axis(axis)
        axis.set_ylabel("relative error of loss" if number % columns == 0 else "")
    for number, strip in enumerate(strips):
        _draw_strip(strip, drawn, tables, named=number == 0)
    figures.legend(figure, _line_entries(drawn))
    return figure


def baseline_vs_quantized(tables: Tables) -> Figure:
    """Loss before against loss after quantization, one panel a method, and the line x = y."""
    drawn, measurements = drawing(tables["checkpoints"], tables["runs"]), _quantized(tables["measurements"])
    cells = curves.cells_of(measurements, CROSS_ENTROPY)
    places = _places(measurements, cells)
    if not places:
        return figures.placeholder(TOO_LITTLE if cells else NOTHING_QUANTIZED)
    columns = 2 if len(places) in (1, 2, 4) else 3
    limits = figures.focus(pl.concat(cells.values())["baseline"].to_list())
    by_place = {place: [cell for key, cell in cells.items() if (key[1], key[0]) == place] for place in places}
    figure, axes, _ = figures.panels(len(places), columns, 3.6 if columns == 2 else 2.7)
    for number, (axis, (method, dataset)) in enumerate(zip(axes, places, strict=True)):
        for line in drawn.lines:
            curves.draw_line(axis, line, curves.curves_of(cells, line, dataset, method), "value", across="baseline")
        axis.axline((limits[0], limits[0]), slope=1, color="0.45", linestyle=":", linewidth=1.2, zorder=1)
        inside = [cell.filter(pl.col("baseline") <= limits[1])["value"].max() for cell in by_place[method, dataset]]
        axis.set(xlim=limits, ylim=(limits[0], max([limits[1], *(1.01 * value for value in inside if value)])))
        axis.set_title(_title(method, dataset, cells))
        axis.set_xlabel("baseline loss (nats per token)")
        axis.set_ylabel("quantized loss (nats per token)" if number % columns == 0 else "")
    figures.legend(figure, [*_line_entries(drawn), Line2D([], [], color="0.45", linestyle=":", label="x = y")])
    return figure


def errors_by_method(tables: Tables) -> Figure:
    """KL, relative error and agreement at the end of every trajectory: a block a method, a row a line."""
    drawn, measurements = drawing(tables["checkpoints"], tables["runs"]), _quantized(tables["measurements"])
    losses = curves.cells_of(measurements, CROSS_ENTROPY)
    if not losses:
        return figures.placeholder(NOTHING_QUANTIZED)
    panels = [(dataset, *shown) for dataset in _datasets(losses) for shown in ENDS]
    rows = curves.rows_of_ends(drawn.lines, method_order(measurements), [key[1:] for key in losses])
    figure, axes, _ = figures.panels(len(panels), len(ENDS), _rows_height(rows), sharey=True)
    for number, (axis, (dataset, metric, column, words)) in enumerate(zip(axes, panels, strict=True)):
        ends = _ends(curves.cells_of(measurements, metric), dataset)
        if column == "value":
            ends = {key: row | _bounds_of_value(row) for key, row in ends.items()}
        curves.draw_ends(axis, rows, ends, column)
        figures.scale_ends(axis, [row[column] for row in ends.values()], share=metric is not KL)
        axis.set_xlabel(words)
        if number % len(ENDS) == 0:
            curves.label_rows(axis, rows)
            axis.set_title(_title("", dataset, losses))
        curves.name_blocks(axis, rows, named=number % len(ENDS) == len(ENDS) - 1)
    return figure


def tasks(tables: Tables) -> Figure:
    """Accuracy drop, or relative error of bits per byte, at the last evaluated checkpoint of every trajectory."""
    measurements = _quantized(rows_in(tables["measurements"], TASK))
    shown = rows_of(measurements, *(metric for metric in METRICS.values() if metric.drawn))
    if shown.is_empty():
        return figures.placeholder(NO_TASKS)
    ends = {place: _task_ends(shown, *place) for place in sorted(set(shown.select("metric", "dataset").iter_rows()))}
    ends = {place: rows for place, rows in ends.items() if len(rows) >= LEAST_DOTS}
    if not ends:
        return figures.placeholder(TOO_LITTLE)
    drawn = drawing(tables["checkpoints"], tables["runs"])
    rows = curves.rows_of_ends(drawn.lines, method_order(shown), {key for part in ends.values() for key in part})
    columns = 2 if len(ends) in (1, 2, 4) else 3
    figure, axes, _ = figures.panels(len(ends), columns, _rows_height(rows), sharey=True)
    for number, (axis, ((name, task), part)) in enumerate(zip(axes, ends.items(), strict=True)):
        axis.axvline(0, color="0.45", linewidth=1.2, linestyle=":", zorder=1)
        curves.draw_ends(axis, rows, part, "relative")
        if number % columns == 0:
            curves.label_rows(axis, rows)
        curves.name_blocks(axis, rows, named=number % columns == columns - 1 or number + 1 == len(ends))
        axis.set_title(task)
        axis.locator_params(axis="x", nbins=4)
        figures.percent_axis(axis, "x")
        axis.set_xlabel("\n".join(textwrap.wrap(error_words(METRICS[name]), 24)))
    return figure


def training(tables: Tables) -> Figure:
    """Training loss and norms of gradient and weights of the runs that were trained here, rates in a strip below."""
    drawn, logs = drawing(tables["checkpoints"], tables["runs"]), tables["training"]
    drawn = replace(drawn, lines=tuple(line for line in drawn.lines if line.kind != AVERAGE))
    by_run = logs.partition_by("trajectory", as_dict=True)
    found = [[by_run[track.name,] for track in line.tracks if (track.name,) in by_run] for line in drawn.lines]
    if not any(found):
        return figures.placeholder(NOTHING_TRAINED)
    figure, axes = figures.grid(1, (1.0, 0.7, 0.7, 0.36), 2.5, sharex=True)
    *panels, strip = axes[:, 0]
    for axis, (column, words) in zip(panels, LOGGED.items(), strict=True):
        for line, runs in zip(drawn.lines, found, strict=True):
            curves.draw_line(axis, line, runs, column, marker=" ")  # no dots
        axis.set_ylabel(words)
    panels[0].set_ylim(figures.focus(logs["loss"].to_list()))
    panels[1].set_yscale("log")
    figures.log_ticks(panels[1].yaxis)
    _draw_strip(strip, drawn, tables)
    figures.legend(figure, _line_entries(drawn))
    return figure


LOGGED = {  # column and words of what the figure of training shows
    "loss": "training loss\n(nats per token)",
    "gradient_norm": "gradient norm",
    "weight_norm": "weight norm",
}


def mechanism(tables: Tables) -> Figure:
    """Penalties against tokens, and what they are made of: size, curvature and the rest; a column a method."""
    rows = first_draws(tables["mechanism"]) if "mechanism" in tables else pl.DataFrame({"penalty": []})
    if rows["penalty"].is_null().all():
        return figures.placeholder(of_mechanism.NOTHING_SLICED)
    drawn, found = drawing(tables["checkpoints"], tables["runs"]), of_mechanism.drawable(rows)
    places = _main_places(tables, _places(tables["measurements"], found["penalty"]))
    if not places:
        return figures.placeholder(TOO_LITTLE)
    figure, axes = figures.grid(len(places), (*(0.8 for _ in found), 0.36), 2.2, sharex=True)
    for column, (method, dataset) in enumerate(places):
        *panels, strip = axes[:, column]
        panels[0].set_title(_title(method, dataset, found["penalty"]))
        for axis, (name, cells) in zip(panels, found.items(), strict=True):
            for line in drawn.lines:
                curves.draw_line(axis, line, curves.curves_of(cells, line, dataset, method), name)
            if np.isfinite(axis.dataLim.ymax):  # something was drawn
                figures.positive_axis(axis)
                axis.set_ylim(top=1.1 * axis.dataLim.ymax)
            axis.set_ylabel(of_mechanism.WAYS[name] if column == 0 else "")
        _draw_strip(strip, drawn, tables, named=column == 0)
    figures.legend(figure, _line_entries(drawn))
    return figure


def laws(tables: Tables) -> Figure:
    """How far off each law is on what it did not see, beside the baselines and the noise."""
    return of_laws.draw(tables.get("laws"))


FIGURES = {name: globals()[name] for name in contents.FIGURES}  # a figure is the function of its name
ENDS = (  # metric, column and words of what is shown of the ends
    (KL, "value", "KL (nats per token)"),
    (CROSS_ENTROPY, "relative", "relative error of loss"),
    (TOP1_AGREEMENT, "value", "top-1 agreement"),
)


def method_order(measurements: pl.DataFrame) -> list[str]:
    """Methods: the baseline first, then those with few bits, then by name."""
    rows = measurements.select("method", "bits").unique().iter_rows()
    return [method for method, _ in sorted(rows, key=lambda row: (row[0] != BASELINE, row[1] or 0, row[0]))]


def noise_of_a_cell(noise: pl.DataFrame, measure: str, method: str, dataset: str) -> float | None:
    """Two standard deviations of what noise does to a measure of one cell; None where nothing is known of it.

    Seeds hold the draws of calibration text and the scatter of neighbours too, which count only where there are none.
    """
    rows = noise.filter(measure=measure, method=method, dataset=dataset).drop_nulls("standard_deviation")
    variances = {row["source"]: row["standard_deviation"] ** 2 for row in rows.iter_rows(named=True)}
    parts = ("documents", "seeds") if "seeds" in variances else ("documents", "calibration", "neighbours")
    found = [variances[source] for source in parts if source in variances]
    return 2 * float(np.sqrt(sum(found))) if found else None


def _draw_strip(strip: Axes, drawn: Drawing, tables: Tables, named: bool = True) -> None:
    """The strip of learning rates below a column of panels; `named`: whether it says so at its left."""
    curves.draw_rates(strip, drawn, tables["schedules"], tables["checkpoints"]["learning_rate"].max())
    figures.token_axis(strip)
    strip.set_ylabel("learning rate" if named else "")


def _quantized(measurements: pl.DataFrame) -> pl.DataFrame:
    return measurements.filter(pl.col("method") != BASELINE)


def _datasets(cells: curves.Cells) -> list[str]:
    return sorted({dataset for dataset, _, _ in cells})


def _places(measurements: pl.DataFrame, cells: curves.Cells) -> list[Place]:
    """(method, dataset) of every panel that has enough to show."""
    dots = {}
    for (dataset, method, _), cell in cells.items():
        dots[method, dataset] = dots.get((method, dataset), 0) + len(cell)
    order = [(method, dataset) for method in method_order(measurements) for dataset in _datasets(cells)]
    return [place for place in order if dots.get(place, 0) >= LEAST_DOTS]


def _main_places(tables: Tables, places: list[Place]) -> list[Place]:
    """The places that decide claims first, then others, as many as the main figure has room for."""
    primary = tables["verdicts"].filter("primary").select("method", "dataset").iter_rows()
    deciding = [place for place in dict.fromkeys(primary) if place in places]
    return sorted(dict.fromkeys([*deciding, *places][:MOST_MAIN]), key=places.index)


def _dots_of_group(drawn: Drawing, cells: curves.Cells, group: str, dataset: str) -> int:
    names = {track.name for line in drawn.of_group(group) for track in line.tracks}
    return sum(len(cell) for (place, _, name), cell in cells.items() if place == dataset and name in names)


def _ends(cells: curves.Cells, dataset: str) -> dict[tuple[str, str], dict]:
    """By (method, trajectory) the last row that is known."""
    return {key[1:]: cell.row(-1, named=True) for key, cell in cells.items() if key[0] == dataset and len(cell)}


def _bounds_of_value(row: dict) -> dict:
    """The interval of a value whose table has that of its difference from the baseline."""
    bounds = {name: row[name] for name in ("lower", "upper")}
    return {name: None if bound is None else row["baseline"] + bound for name, bound in bounds.items()}


def _task_ends(shown: pl.DataFrame, name: str, task: str) -> dict[tuple[str, str], dict]:
    cells = curves.cells_of(shown.filter(pl.col("dataset") == task), METRICS[name])
    if METRICS[name].error == DROP:
        cells = {key: _drop(cell) for key, cell in cells.items()}
    return _ends({key: cell.drop_nulls("relative") for key, cell in cells.items()}, task)


def _drop(cell: pl.DataFrame) -> pl.DataFrame:
    """Rows of accuracies with the interval of the difference in the unit of the drop, 1 - baseline."""
    room = 1 - pl.col("baseline")
    return cell.with_columns(lower=-pl.col("upper") / room, upper=-pl.col("lower") / room)


def _title(name: str, dataset: str, cells: curves.Cells) -> str:
    """A panel's title; it names the dataset only where there are several."""
    several = len(_datasets(cells)) > 1
    return " · ".join(part for part in (name, dataset if several else "") if part)


def _rows_height(rows: curves.Rows) -> float:
    return 0.9 + 0.19 * (rows[-1][0] + 1)


def _label_ends(ends: dict, drawn: Drawing) -> None:
    """Write the groups at the ends of their longest lines, right of the panels, where there are few."""
    several = len(drawn.groups) > 1
    for axis, found in ends.items():
        last = {}
        for _, value, line in sorted(found, key=lambda end: -end[0]):
            name = line.group if several else KIND_WORDS[line.kind]
            last.setdefault(name, (value, name, line.color))
        if len(last) <= curves.MOST_LABELS:
            curves.draw_labels(axis, list(last.values()))


def _line_entries(drawn: Drawing, labelled: bool = False) -> list[Line2D]:
    """Legend entries of groups, kinds and seeds."""
    groups = [] if labelled and len(drawn.groups) <= curves.MOST_LABELS else curves.group_entries(drawn)
    return [*groups, *curves.kind_entries(drawn), *curves.seed_entries(drawn)]


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], f"plot {snakemake.params.figure}")
    plot(
        snakemake.params.figure,
        snakemake.params.theme,
        {name: pl.read_parquet(path) for name, path in snakemake.input.items()},
        **{name: Path(snakemake.output[name]) for name in figures.FORMATS},
    )
