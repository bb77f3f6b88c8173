"""The report's tables: polars frames made from the tables of a study, shown by great_tables, and pieces of text."""

import html
import importlib.metadata
import platform
from pathlib import Path

import polars as pl
import yaml
from great_tables import GT, loc, style
from IPython.display import HTML

from scripts.lib.analysis.metrics import LOSS, METRICS, TASK, rows_in
from scripts.lib.analysis.tracks import short_count, short_rate
from scripts.lib.report.findings import effect, interval

WORKFLOW = ("snakemake", "polars", "great_tables", "matplotlib", "seaborn")
DASH = "–"


# --- how tables and text are shown -----------------------------------------------------------------------------------


def table(name: str, frame: pl.DataFrame, empty: str) -> GT:
    """A frame as a compact table; add great_tables' own `fmt_...` and `cols_...` calls to shape its columns.

    Args:
        name: the table's id on the page; no two tables may share one.
        frame: its rows; underscores in names of columns are shown as spaces.
        empty: what stands below the head if there is no row.
    """
    labels = {column: column.replace("_", " ") for column in frame.columns}
    shown = GT(frame, id=name).cols_label(labels).sub_missing(missing_text=DASH)
    shown = shown.tab_options(table_font_size="13px", data_row_padding="4px", table_margin_left="0")
    return shown.tab_source_note(empty) if frame.is_empty() else shown


def wrapped(shown: GT, column: str) -> GT:
    """The table with long texts in a column broken into lines."""
    return shown.tab_style(style.css("white-space: normal; min-width: 13rem"), loc.body(columns=column))


def folded(summary: str, shown: GT) -> HTML:
    """A table that opens on a click."""
    return HTML(f"<details><summary>{html.escape(summary)}</summary>{shown.as_raw_html()}</details>")


def note(text: str) -> HTML:
    """Small text beside a table."""
    return HTML(f'<p class="note">{html.escape(text)}</p>')


def boxed(text: str) -> HTML:
    """The finding, set apart."""
    return HTML(f'<p class="finding">{html.escape(text)}</p>')


def heading(
    title: str, study: str, checkpoints: pl.DataFrame, measurements: pl.DataFrame, missing: pl.DataFrame
) -> HTML:
    """Title of the page and one line on how much the study holds."""
    cells = measurements.select("trajectory", "checkpoint", "method").n_unique() if len(measurements) else 0
    measured = f"{cells} cells measured (the baselines among them)" if cells else "nothing measured yet"
    size = f"{len(checkpoints)} checkpoints, {measured}, {len(missing)} missing"
    return HTML(f'<h1>{html.escape(title)}</h1><p class="lead">Study <code>{html.escape(study)}</code>: {size}.</p>')


# --- the tables ------------------------------------------------------------------------------------------------------


def compared(comparisons: pl.DataFrame) -> GT:
    """Every pair behind the verdicts, with its effect."""
    rows = list(comparisons.iter_rows(named=True))
    frame = comparisons.select(
        "claim",
        "measure",
        pl.col("dataset").alias("corpus"),
        "method",
        _texts("cell", (f"{row['trajectory']}, step {row['step']}" for row in rows)),
        _texts("compared with", map(_reference, rows)),
        _texts("effect (documents' interval)", map(effect, rows)),
    )
    shown = table("comparisons", _telling(frame, "corpus"), "There is nothing to compare.")
    return shown.cols_align("right", ["effect (documents' interval)"])


def described(methods: pl.DataFrame) -> GT:
    """One row a method: what it does, with which library, at how many bits, and its weight error."""
    errors = methods.select("weight_error", "weight_error_lowest", "weight_error_highest").iter_rows()
    frame = methods.select(
        pl.col("method").alias("recipe"),
        pl.concat_str("transform", "algorithm", separator=" + ", ignore_nulls=True).alias("algorithm"),
        pl.concat_str("library", "package_version", separator=" ", ignore_nulls=True).alias("library"),
        pl.col("bits").cast(pl.String).fill_null("mixed"),
        pl.col("group_size").cast(pl.Int64),
        pl.when("symmetric").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("symmetric"),
        "bits_per_weight",
        _texts("weight error", (f"{mean:.4f} [{low:.4f}, {high:.4f}]" for mean, low, high in errors)),
        pl.col("calibration").cast(pl.String).replace("", None),
        "cells",
    )
    shown = table("methods", frame, "No cell was quantized.").fmt_number("bits_per_weight", decimals=2)
    return wrapped(shown.cols_align("right", ["bits", "weight error"]), "calibration")


def noisy(noise: pl.DataFrame) -> GT:
    """The ledger of noise: one row a method, corpus and measure, a column a source; why sources are absent below."""
    known, place = noise.filter(pl.col("reason").is_null()), ["method", "dataset", "measure"]
    rows = known.select(*place, "unit").unique(maintain_order=True)
    for source in noise["source"].unique(maintain_order=True):
        part = known.filter(pl.col("source") == source)
        cells = zip(part["standard_deviation"], part["degrees_of_freedom"], strict=True)
        told = _texts(source, (f"{deviation:.2g} ({freedom:.0f})" for deviation, freedom in cells))
        rows = rows.join(part.select(*place, told), on=place, how="left")
    shown = table("noise", rows.sort("method", "dataset", maintain_order=True), "Nothing is replicated in this study.")
    absent = noise.filter(pl.col("reason").is_not_null()).group_by("source", "reason", maintain_order=True)
    for (source, reason), part in absent:
        shown = shown.tab_source_note(f"{source}, {', '.join(part['method'])}: {reason}")
    return shown


def errors(measurements: pl.DataFrame) -> pl.DataFrame:
    """Baseline loss of every checkpoint, and a column a method with its error and paired interval, for each metric that
    the report shows as a loss."""
    keys = ("metric", "dataset", "subset", "trajectory", "step", "checkpoint")
    part = rows_in(measurements, LOSS).sort(*keys)
    base = part.filter(pl.col("method") == "none").select(*keys, "tokens", "learning_rate", baseline_loss="value")
    for method in sorted(set(part["method"]) - {"none"}):
        rows = part.filter(pl.col("method") == method)
        column = rows.select(*keys, _texts(method, map(_error, rows.iter_rows(named=True))))
        base = base.join(column, on=keys, how="left", maintain_order="left", nulls_equal=True)
    return base.drop("checkpoint")


def units(measurements: pl.DataFrame) -> str:
    """Units of the metrics that the report shows as losses."""
    return ", ".join(sorted({METRICS[name].unit for name in rows_in(measurements, LOSS)["metric"]}))


def losses(name: str, frame: pl.DataFrame) -> GT:
    """Rows of `errors` as a table."""
    columns = frame.columns[frame.columns.index("baseline_loss") + 1 :]
    frame = _telling(frame.rename({"dataset": "corpus", "subset": "tokens of"}), "metric", "corpus", "tokens of")
    shown = table(name, frame, "No loss was measured.").fmt_number("baseline_loss", decimals=4)
    shown = shown.cols_label({column: column for column in columns}).cols_align("right", columns)
    return shown.fmt(short_count, "tokens").fmt(_rate, "learning_rate")


def task_scores(measurements: pl.DataFrame) -> GT:
    """Scores of tasks, plain and with standard errors; only at checkpoints where tasks were evaluated."""
    part = rows_in(measurements, TASK)
    frame = part.select(
        *("trajectory", "step", "method", pl.col("dataset").alias("task"), "metric"),
        *(pl.col("value").alias("score"), pl.col("stderr").alias("standard error"), "baseline"),
        *(pl.col("relative").alias("drop or relative error"), pl.col("n").alias("documents")),
    )
    shown = table("scores", frame, "No tasks were evaluated.")
    shown = shown.fmt_number(["score", "standard error", "baseline"], decimals=4)
    return shown.fmt(lambda share: f"{100 * share:.2f} %", "drop or relative error")


def lacking(missing: pl.DataFrame, name: str = "missing") -> GT:
    """Cells without a result and why."""
    return wrapped(table(name, missing.drop("study"), "No cell is missing."), "reason")


def spent(costs: pl.DataFrame) -> GT:
    """Jobs, times and peak memory by rule, what took longest first."""
    rules = costs.group_by("rule").agg(
        pl.len().alias("jobs"),
        pl.col("wall_seconds").sum().alias("wall time"),
        pl.col("cpu_seconds").sum().alias("CPU time"),
        pl.col("peak_memory_bytes").max().alias("peak memory of a job"),
        pl.col("bytes_written").sum().alias("written"),
        pl.col("device").drop_nulls().unique().sort().str.join(", ").replace("", None),
    )
    rules = rules.sort("wall time", "rule", descending=[True, False])
    shown = table("costs", rules, "No job has written what it took.")
    return shown.fmt(duration, ["wall time", "CPU time"]).fmt(_size, ["peak memory of a job", "written"])


def used(versions: pl.DataFrame) -> GT:
    """Versions of what made the models, and of what made this page."""
    here = {"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in WORKFLOW}}
    rows = [(name, version, "this report") for name, version in here.items()]
    page = pl.DataFrame(rows, dict.fromkeys(versions.columns, pl.String), orient="row")
    return table("versions", pl.concat([versions.cast(pl.String), page]), "").cols_align("left", "version")


def cited(path: Path) -> HTML:
    """How to cite the study that is reproduced and this software, from CITATION.cff."""
    content = yaml.safe_load(path.read_text())
    people = [
        " ".join(author[part] for part in ("given-names", "family-names", "name") if part in author)
        for author in content["authors"]
    ]
    version = f", version {content['version']}" if "version" in content else ""
    software = f"{', '.join(people)}: {content['title']}{version}."
    return HTML(
        "<p>The phenomenon and the metrics: <strong>arXiv:2510.06213</strong>.</p>"
        f"<p>This software: <strong>{html.escape(software)}</strong> CITATION.cff holds this for machines.</p>"
    )


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _rate(rate: float | None) -> str:
    return DASH if rate is None else short_rate(rate)


def _texts(name: str, values) -> pl.Series:
    return pl.Series(name, list(values), pl.String)


def _error(row: dict) -> str:
    """The error of a row of `measurements` with its interval; the plain difference where there is no relative one."""
    return interval(row) if row["relative"] is not None else f"{row['difference']:+.4f}"


def _telling(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The frame without those of the columns that say the same in all rows."""
    return frame.drop(column for column in columns if frame[column].n_unique() <= 1)


def _reference(row: dict) -> str:
    place = f"{row['reference_trajectory']}, step {row['reference_step']}"
    return place if row["method"] == row["reference_method"] else row["reference_method"]
