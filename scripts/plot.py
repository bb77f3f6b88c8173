"""plot: the figures of a study, one function a figure, from the tables alone."""

from pathlib import Path

import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scripts.lib.analysis.metrics import CROSS_ENTROPY, DROP, METRICS, TASK, error_words, first_draws, rows_in, rows_of
from scripts.lib.analysis.tracks import Track, families, tracks
from scripts.lib.report import contents, curves, figures
from scripts.lib.report.figures import BASELINE, LINES, MARKERS, WORDS

NOTHING_MEASURED = "No loss was measured in this study."
NOTHING_QUANTIZED = "The loss of no quantized model was measured in this study."
NO_TASKS = "No tasks were evaluated on quantized models in this study."


def plot(name: str, theme: dict, measurements: Path, checkpoints: Path, schedules: Path, svg: Path, png: Path) -> None:
    """Draw one figure of `FIGURES` and write it as SVG and PNG.

    Args:
        name: which figure.
        theme: the config's section `plot`.
        measurements, checkpoints, schedules: the tables (parquet); a trajectory that is not in `schedules` gets its
            learning rates from its checkpoints.
        svg, png: output files.

    Raises:
        ValueError: there is no such figure.
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}; figures are {', '.join(FIGURES)}")
    figures.use_style(theme)
    tables = (pl.read_parquet(path) for path in (checkpoints, schedules))
    figure = FIGURES[name](first_draws(pl.read_parquet(measurements)), *tables)
    figures.save(figure, svg, png)


def loss_vs_tokens(measurements: pl.DataFrame, checkpoints: pl.DataFrame, schedules: pl.DataFrame) -> Figure:
    """Loss of the baseline and of the 3- and 4-bit models against tokens, the rate as a grey area on a second axis."""
    shown = measurements.filter((pl.col("method") == BASELINE) | pl.col("bits").is_in([3, 4]))
    cells, found, methods = curves.cells_of(shown, CROSS_ENTROPY), tracks(checkpoints), method_order(shown)
    if not cells:
        return figures.placeholder(NOTHING_MEASURED)
    labels, colors = families(found), figures.method_colors(method_order(measurements))
    places = [(family, dataset) for family in labels for dataset in _datasets(cells)]
    figure, axes, _ = figures.panels(len(places), 2, 3.6, sharey=True)
    limits = figures.focus(pl.concat(cells.values())["value"].to_list())
    for number, (axis, (family, dataset)) in enumerate(zip(axes, places, strict=True)):
        members = [track for track in found if track.family == family]
        twin = curves.draw_rate_area(axis, members, found, schedules, checkpoints["learning_rate"].max())
        for track in members:
            for method in reversed(methods):
                curves.draw_curve(axis, track, curves.curve_of(cells, track, dataset, method), "value", colors[method])
        axis.set_ylim(limits)
        axis.set_title(_title(labels[family], dataset, cells))
        figures.token_axis(axis)
        axis.set_ylabel("cross-entropy (nats per token)" if number % 2 == 0 else "")
        twin.set_ylabel("learning rate" if number % 2 or number + 1 == len(places) else "", color=figures.RATE_COLOR)
    names = {BASELINE: "none (baseline)"}
    entries = [Line2D([], [], color=colors[method], linewidth=3, label=names.get(method, method)) for method in methods]
    entries += [Patch(color="0.9", label="learning rate (right axis)"), *_kind_entries(found)]
    figures.legend(figure, entries)
    return figure


def error_vs_tokens(measurements: pl.DataFrame, checkpoints: pl.DataFrame, schedules: pl.DataFrame) -> Figure:
    """Relative error of every method against tokens with its paired interval, the rates in a strip below."""
    cells, found = curves.cells_of(_quantized(measurements), CROSS_ENTROPY), tracks(checkpoints)
    if not cells:
        return figures.placeholder(NOTHING_QUANTIZED)
    labels = families(found)
    colors = figures.sequence_colors(list(labels))
    places = _places(measurements, cells)
    figure, axes, strips = figures.panels(len(places), 2, 2.5, strip=True, sharex=True)
    for number, (axis, (method, dataset)) in enumerate(zip(axes, places, strict=True)):
        for track in found:
            curve = curves.curve_of(cells, track, dataset, method)
            curves.draw_curve(axis, track, curve, "relative", colors[track.family])
            curves.draw_band(axis, track, curve, colors[track.family])
        axis.set_title(_title(method, dataset, cells))
        figures.zero_axis(axis)
        figures.percent_axis(axis)
        axis.set_ylabel("relative error of loss" if number % 2 == 0 else "")
    for number, strip in enumerate(strips):
        curves.draw_rate_lines(strip, found, schedules, colors, checkpoints["learning_rate"].max())
        figures.token_axis(strip)
        strip.set_ylabel("learning rate" if number == 0 else "")
    figures.legend(figure, curves.family_entries(labels) + _kind_entries(found))
    return figure


def baseline_vs_quantized(measurements: pl.DataFrame, checkpoints: pl.DataFrame, schedules: pl.DataFrame) -> Figure:
    """Loss before against loss after quantization, one panel a method, one line a peak rate, and the line x = y."""
    cells, found = curves.cells_of(_quantized(measurements), CROSS_ENTROPY), tracks(checkpoints)
    if not cells:
        return figures.placeholder(NOTHING_QUANTIZED)
    labels = families(found)
    colors = figures.sequence_colors(list(labels))
    places = _places(measurements, cells)
    columns = 2 if len(places) <= 4 else 3
    limits = figures.focus(pl.concat(cells.values())["baseline"].to_list())
    by_place = {place: [cell for key, cell in cells.items() if (key[1], key[0]) == place] for place in places}
    figure, axes, _ = figures.panels(len(places), columns, 3.6 if columns == 2 else 2.7)
    for number, (axis, (method, dataset)) in enumerate(zip(axes, places, strict=True)):
        for track in found:
            curve = curves.curve_of(cells, track, dataset, method)
            curves.draw_curve(axis, track, curve, "value", colors[track.family], across="baseline")
        axis.axline((limits[0], limits[0]), slope=1, color="0.45", linestyle=":", linewidth=1.2, zorder=1)
        inside = [cell.filter(pl.col("baseline") <= limits[1])["value"].max() for cell in by_place[method, dataset]]
        axis.set(xlim=limits, ylim=(limits[0], max([limits[1], *(1.01 * value for value in inside if value)])))
        axis.set_title(_title(method, dataset, cells))
        axis.set_xlabel("baseline loss (nats per token)")
        axis.set_ylabel("quantized loss (nats per token)" if number % columns == 0 else "")
    entries = [*curves.family_entries(labels), *_kind_entries(found)]
    figures.legend(figure, [*entries, Line2D([], [], color="0.45", linestyle=":", label="x = y")])
    return figure


def errors_by_method(measurements: pl.DataFrame, checkpoints: pl.DataFrame, schedules: pl.DataFrame) -> Figure:
    """Relative errors of all methods: every checkpoint as a dot, the end of every trajectory with its interval."""
    cells, found = curves.cells_of(_quantized(measurements), CROSS_ENTROPY), tracks(checkpoints)
    if not cells:
        return figures.placeholder(NOTHING_QUANTIZED)
    methods = [method for method in method_order(measurements) if method != BASELINE]
    datasets = _datasets(cells)
    figure, axes, _ = figures.panels(len(datasets), 1, _rows_height(methods, found), sharex=True)
    for axis, dataset in zip(axes, datasets, strict=True):
        ends = {(method, track.name): cells.get((dataset, method, track.name)) for method in methods for track in found}
        curves.draw_ends(axis, found, methods, ends)
        axis.set_title(_title("", dataset, cells))
        figures.error_axis(axis, pl.concat(cells.values())["relative"].to_list())
    figures.legend(figure, _end_entries(found))
    return figure


def tasks(measurements: pl.DataFrame, checkpoints: pl.DataFrame, schedules: pl.DataFrame) -> Figure:
    """Accuracy drop, or relative error of bits per byte, at the last evaluated checkpoint of every trajectory."""
    drawn = (metric for metric in METRICS.values() if metric.drawn)
    shown = rows_of(_quantized(rows_in(measurements, TASK)), *drawn)
    if shown.is_empty():
        return figures.placeholder(NO_TASKS)
    methods, names = method_order(shown), set(shown["trajectory"])
    found = [track for track in tracks(checkpoints) if track.name in names]
    places = sorted(set(shown.select("metric", "dataset").iter_rows()))
    columns = 2 if len(places) <= 4 else 3
    figure, axes, _ = figures.panels(len(places), columns, _rows_height(methods, found), sharey=True)
    for axis, (name, task) in zip(axes, places, strict=True):
        metric = METRICS[name]
        cells = curves.cells_of(shown.filter(pl.col("dataset") == task), metric)
        ends = {key[1:]: (_drop(cell) if metric.error == DROP else cell).tail(1) for key, cell in cells.items()}
        axis.axvline(0, color="0.45", linewidth=1.2, linestyle=":", zorder=1)
        curves.draw_ends(axis, found, methods, ends)
        axis.set_title(task)
        axis.locator_params(axis="x", nbins=5)
        figures.percent_axis(axis, "x")
        axis.set_xlabel(error_words(metric))
    figures.legend(figure, _end_entries(found, all_checkpoints=False))
    return figure


FIGURES = {name: globals()[name] for name in contents.FIGURES}  # a figure is the function of its name


def method_order(measurements: pl.DataFrame) -> list[str]:
    """Methods: the baseline first, then those with few bits, then by name."""
    rows = measurements.select("method", "bits").unique().iter_rows()
    return [method for method, _ in sorted(rows, key=lambda row: (row[0] != BASELINE, row[1] or 0, row[0]))]


def _quantized(measurements: pl.DataFrame) -> pl.DataFrame:
    return measurements.filter(pl.col("method") != BASELINE)


def _drop(cell: pl.DataFrame) -> pl.DataFrame:
    """Rows of accuracies with the interval of the difference in the unit of the drop, 1 - baseline."""
    room = 1 - pl.col("baseline")
    return cell.with_columns(lower=-pl.col("upper") / room, upper=-pl.col("lower") / room)


def _datasets(cells: curves.Cells) -> list[str]:
    return sorted({dataset for dataset, _, _ in cells})


def _places(measurements: pl.DataFrame, cells: curves.Cells) -> list[tuple[str, str]]:
    """(method, dataset) of every panel that has something to show."""
    filled = {(method, dataset) for dataset, method, _ in cells}
    order = [(method, dataset) for method in method_order(measurements) for dataset in _datasets(cells)]
    return [place for place in order if place in filled]


def _title(name: str, dataset: str, cells: curves.Cells) -> str:
    """A panel's title; it names the dataset only where there are several."""
    several = len(_datasets(cells)) > 1
    return " · ".join(part for part in (name, dataset if several else "") if part)


def _rows_height(methods: list[str], found: list[Track]) -> float:
    return 0.9 + len(methods) * (0.22 + 0.11 * len(found))


def _kind_entries(found: list[Track]) -> list[Line2D]:
    kinds = [kind for kind in WORDS if any(track.kind == kind for track in found)]
    style = {"color": figures.INK, "markersize": 4}
    return [Line2D([], [], linestyle=LINES[k], marker=MARKERS[k], label=WORDS[k], **style) for k in kinds]


def _end_entries(found: list[Track], all_checkpoints: bool = True) -> list[Line2D]:
    kinds = [kind for kind in WORDS if any(track.kind == kind for track in found)]
    style = {"color": figures.INK, "linestyle": "none"}
    ends = [Line2D([], [], marker=MARKERS[k], markersize=5, label=f"end of {WORDS[k]}", **style) for k in kinds]
    dots = [Line2D([], [], marker=".", alpha=0.35, label="earlier checkpoints", **style)] if all_checkpoints else []
    return curves.family_entries(families(found)) + ends + dots


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    open_log(snakemake.log[0], f"plot {snakemake.params.figure}")
    plot(
        snakemake.params.figure,
        snakemake.params.theme,
        Path(snakemake.input.measurements),
        Path(snakemake.input.checkpoints),
        Path(snakemake.input.schedules),
        Path(snakemake.output.svg),
        Path(snakemake.output.png),
    )
