"""The report's tables: polars frames made from the tables of a study, shown by great_tables, and pieces of text."""

import html
import importlib.metadata
import platform
from pathlib import Path

import polars as pl
import yaml
from great_tables import GT, loc, style
from IPython.display import HTML

from scripts.lib.analysis.effects import MEASURES
from scripts.lib.analysis.metrics import CROSS_ENTROPY, KL, LOSS, METRICS, TASK, TOP1_AGREEMENT, rows_in, rows_of
from scripts.lib.analysis.tracks import short_count, short_rate
from scripts.lib.report import lines
from scripts.lib.report.numbers import DASH, decimals, effect, fixed, percent, smallest, with_interval
from scripts.lib.runtime.clone import commit

WORKFLOW = ("snakemake", "polars", "great_tables", "matplotlib", "seaborn")


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
    return shown.tab_style(style.css("white-space: normal; min-width: 8rem"), loc.body(columns=column))


def folded(summary: str, shown: GT, below: str = "") -> HTML:
    """A table that opens on a click, with a note below."""
    told = note(below).data if below else ""
    return HTML(f"<details><summary>{html.escape(summary)}</summary>{shown.as_raw_html()}{told}</details>")


def note(text: str) -> HTML:
    """Small text beside a table."""
    return HTML(f'<p class="note">{html.escape(text)}</p>')


def heading(
    title: str,
    study: str,
    checkpoints: pl.DataFrame,
    measurements: pl.DataFrame,
    datasets: pl.DataFrame,
    missing: pl.DataFrame,
) -> HTML:
    """Title of the page and a line on how much the study holds, on what text, and which clone made the page."""
    cells = measurements.select("trajectory", "checkpoint", "method").n_unique() if len(measurements) else 0
    measured = f"{cells} cells measured (the baselines among them)" if cells else "nothing measured yet"
    size = f"{len(checkpoints)} checkpoints of {checkpoints['trajectory'].n_unique()} trajectories, {measured}, "
    parts = [f"Study <code>{html.escape(study)}</code>: {size}{len(missing)} missing."]
    parts += [_text_size(row) for row in datasets.drop_nulls("tokens").iter_rows(named=True)]
    parts.append(f"Clone at commit <code>{html.escape(commit() or 'unknown')}</code>.")
    return HTML(f'<h1>{html.escape(title)}</h1><p class="lead">{" ".join(parts)}</p>')


def _text_size(row: dict) -> str:
    """What a corpus's losses rest on."""
    effective = f"{row['documents']} documents (as good as {row['effective_documents']:.0f} of equal size)"
    return f"Losses on {html.escape(row['dataset'])}: {effective}, {short_count(row['tokens'])} tokens."


# --- the tables ------------------------------------------------------------------------------------------------------


def ran(runs: pl.DataFrame, checkpoints: pl.DataFrame) -> GT:
    """One row a trajectory: what it is, its size and seed, what the study varies, and how far it was trained."""
    last = checkpoints.sort("step").group_by("trajectory").last()
    size = last.select("trajectory", "architecture", "parameters", "step", "tokens", "peak_learning_rate")
    frame = runs.join(size, on="trajectory", how="inner", maintain_order="left")
    varied = [name for name in lines.factors(runs) if name != lines.PEAK]
    frame = frame.select(
        "trajectory",
        "kind",
        pl.concat_str("parent", "parent_checkpoint", separator=", ", ignore_nulls=True).replace("", None).alias("from"),
        "architecture",
        "parameters",
        "seed",
        *(_texts(lines.setting_name(name), map(_setting, frame[name])) for name in varied),
        pl.col("peak_learning_rate").alias("peak rate"),
        "step",
        "tokens",
    )
    shown = table("runs", _known(frame), "No checkpoint is there yet.")
    shown = shown.fmt(short_count, [name for name in ("parameters", "tokens") if name in _known(frame).columns])
    return shown.fmt(_rate, "peak rate") if "peak rate" in _known(frame).columns else shown


def chosen(choices: pl.DataFrame) -> GT:
    """Every candidate to ship: its size and its loss, and whether another one is as small and better."""
    rows = list(choices.iter_rows(named=True))
    frame = choices.select(
        "run",
        pl.col("dataset").alias("corpus"),
        pl.concat_str("trajectory", "checkpoint", separator=", ").alias("checkpoint"),
        "method",
        "bits_per_weight",
        "bytes",
        "bytes_zstd",
        _texts("loss", (with_interval(*(row[name] for name in ("loss", "loss_lower", "loss_upper"))) for row in rows)),
        pl.when("on_front").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("on the front"),
        "best_probability",
    )
    shown = table("choices", _telling(frame, "run", "corpus"), "Nothing that could be shipped was measured.")
    return shown.fmt_number(["bits_per_weight", "best_probability"], decimals=2).fmt(_size, ["bytes", "bytes_zstd"])


def decided(verdicts: pl.DataFrame) -> GT:
    """Every row of `verdicts`; of each claim that with the verdict first, then other measures, which decide nothing."""
    rows = list(verdicts.iter_rows(named=True))
    frame = verdicts.select(
        "claim",
        _texts("measure", (MEASURES[row["measure"]].words for row in rows)),
        "method",
        pl.col("dataset").alias("corpus"),
        _texts("effect", map(effect, rows)),
        _texts("smallest that matters", (smallest(row) if row["smallest"] else None for row in rows)),
        pl.col("runs"),
        _texts("verdict", (row["verdict"] if row["primary"] else None for row in rows)),
        _texts("slope", map(_slope, rows)),
    )
    shown = table("verdicts", _known(_telling(frame, "corpus")), "The study lists no claims to decide.")
    return shown.cols_align("right", ["effect", "smallest that matters"])


def compared(comparisons: pl.DataFrame) -> GT:
    """Every pair behind the verdicts, with its effect."""
    rows = list(comparisons.iter_rows(named=True))
    frame = comparisons.select(
        "claim",
        _texts("measure", (MEASURES[row["measure"]].words for row in rows)),
        pl.col("dataset").alias("corpus"),
        "method",
        _texts("cell", (f"{row['trajectory']}, step {row['step']}" for row in rows)),
        _texts("compared with", map(_reference, rows)),
        _texts("effect (documents' interval)", map(effect, rows)),
    )
    shown = table("comparisons", _telling(frame, "corpus"), "There is nothing to compare.")
    return shown.cols_align("right", ["effect (documents' interval)"])


def described(methods: pl.DataFrame, measurements: pl.DataFrame) -> GT:
    """One row a method: what it does, with which library, at how many bits, the loss it added, and its weight error."""
    losses = rows_of(measurements, CROSS_ENTROPY).group_by("method").agg(*_spread("difference"))
    losses = methods.select("method").join(losses, on="method", how="left", maintain_order="left").drop("method")
    errors = methods.select("weight_error", "weight_error_lowest", "weight_error_highest").iter_rows()
    frame = methods.select(
        pl.col("method").alias("recipe"),
        pl.concat_str("transform", "algorithm", separator=" + ", ignore_nulls=True).alias("algorithm"),
        pl.concat_str("library", "package_version", separator=" ", ignore_nulls=True).alias("library"),
        pl.col("bits").cast(pl.String).fill_null("mixed"),
        pl.col("group_size").cast(pl.Int64),
        pl.when("symmetric").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("symmetric"),
        "bits_per_weight",
        _texts("loss added", (with_interval(*row, sign=True) for row in losses.iter_rows())),
        _texts("weight error", (f"{mean:.4f} [{low:.4f}, {high:.4f}]" for mean, low, high in errors)),
        pl.col("calibration").cast(pl.String).replace("", None),
        "cells",
    )
    shown = table("methods", frame, "No cell was quantized.").fmt_number("bits_per_weight", decimals=2)
    return wrapped(shown.cols_align("right", ["bits", "loss added", "weight error"]), "calibration")


def noisy(noise: pl.DataFrame) -> GT:
    """The ledger of noise: one row a method, corpus and measure, a column a source; why sources are absent below."""
    known, place = noise.filter(pl.col("reason").is_null()), ["method", "dataset", "measure"]
    rows = known.select(*place, "unit").unique(maintain_order=True)
    for source in noise["source"].unique(maintain_order=True):
        part = known.filter(pl.col("source") == source)
        cells = zip(part["standard_deviation"], part["degrees_of_freedom"], strict=True)
        told = _texts(source, (f"{deviation:.2g} ({freedom:.0f})" for deviation, freedom in cells))
        rows = rows.join(part.select(*place, told), on=place, how="left")
    words = {name: measure.words for name, measure in MEASURES.items()}
    rows = rows.sort("method", "dataset", maintain_order=True).with_columns(pl.col("measure").replace(words))
    shown = table("noise", rows, "Nothing is replicated in this study.")
    absent = noise.filter(pl.col("reason").is_not_null()).group_by("source", "reason", maintain_order=True)
    for (source, reason), part in absent:
        shown = shown.tab_source_note(f"{source}, {', '.join(part['method'])}: {reason}")
    return shown


def errors(measurements: pl.DataFrame) -> pl.DataFrame:
    """A row a checkpoint and method, for each metric that the report shows as a loss: the loss before and after
    quantization, its error with the paired interval, and on all tokens KL and agreement."""
    keys = ("metric", "dataset", "subset", "trajectory", "step", "checkpoint", "method")
    part = rows_in(measurements, LOSS).filter(pl.col("method") != "none").sort(*keys)
    others = [_beside(measurements, metric) for metric in (KL, TOP1_AGREEMENT)]
    frame = part.select(
        *(*keys, "tokens", "learning_rate"),
        *(pl.col("baseline").alias("baseline_loss"), pl.col("value").alias("loss_after")),
        _texts("error", map(_error, part.iter_rows(named=True))),
    )
    for other in others:
        frame = frame.join(other, on=other.columns[:-1], how="left", maintain_order="left", nulls_equal=True)
    return frame.drop("checkpoint")


def ends(losses: pl.DataFrame) -> pl.DataFrame:
    """Of the rows of `errors`, the last one of each trajectory and method."""
    keys = ("metric", "dataset", "subset", "trajectory", "method")
    return losses.group_by(keys, maintain_order=True).last().select(losses.columns)


def _beside(measurements: pl.DataFrame, metric) -> pl.DataFrame:
    """Values of a metric by cell and corpus, for the rows of the losses on all tokens."""
    rows = rows_of(measurements, metric).with_columns(metric=pl.lit(CROSS_ENTROPY.name))
    return rows.select(
        "metric", "dataset", "subset", "trajectory", "checkpoint", "method", pl.col("value").alias(metric.name)
    )


def units(measurements: pl.DataFrame) -> str:
    """Units of the metrics that the report shows as losses."""
    return ", ".join(sorted({METRICS[name].unit for name in rows_in(measurements, LOSS)["metric"]}))


def losses(name: str, frame: pl.DataFrame) -> GT:
    """Rows of `errors` as a table."""
    words = {KL.name: "KL", TOP1_AGREEMENT.name: "agreement", "error": "relative error", "dataset": "corpus"}
    frame = frame.rename(words | {"subset": "tokens of"})
    frame = _telling(frame, "metric", "corpus", "tokens of")
    shown = table(name, frame, "No loss was measured.").fmt_number(["baseline_loss", "loss_after"], decimals=4)
    shown = shown.cols_align("right", "relative error").fmt(percent, "agreement").fmt(_three_digits, "KL")
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
    return shown.fmt(percent, "drop or relative error")


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


def _spread(column: str) -> list[pl.Expr]:
    """Mean, lowest and highest of a column."""
    values = pl.col(column)
    return [values.mean(), values.min().alias("lowest"), values.max().alias("highest")]


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _rate(rate: float | None) -> str:
    return DASH if rate is None else short_rate(rate)


def _texts(name: str, values) -> pl.Series:
    return pl.Series(name, list(values), pl.String)


def _error(row: dict) -> str:
    """The error of a row of `measurements` with its interval; the plain difference where there is no relative one."""
    if row["relative"] is None:
        return with_interval(row["difference"], row["lower"], row["upper"], sign=True)
    return percent(row["relative"], row["lower"], row["upper"])


def _setting(value) -> str | None:
    return None if value is None else lines.setting_value(value)


def _three_digits(value: float | None) -> str:
    return DASH if value is None else fixed(value, decimals(value))


def _slope(row: dict) -> str | None:
    """The slope along an axis with its interval, and whether every value of the axis goes the same way."""
    if row["slope"] is None:
        return None
    found = with_interval(*(row[name] for name in ("slope", "slope_lower", "slope_upper")), sign=True)
    return found + {None: "", True: ", monotone", False: ", not monotone"}[row["monotone"]]


def _known(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without columns that say nothing in any row."""
    return frame.drop(name for name in frame.columns if len(frame) and frame[name].is_null().all())


def _telling(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """The frame without those of the columns that say the same in all rows."""
    return frame.drop(column for column in columns if frame[column].n_unique() <= 1)


def _reference(row: dict) -> str:
    place = f"{row['reference_trajectory']}, step {row['reference_step']}"
    return place if row["method"] == row["reference_method"] else row["reference_method"]
