"""Metrics: what is measured of a cell, each defined once and read by tables, figures and the report.

A metric of loss is a mean over tokens: of every part of the tokens that it has (mostly one, all tokens), what is summed
and what it is divided by are expressions over the rows of evaluate_loss, one row a segment (a document in a window).
A metric of tasks is a weighted mean over documents, as evaluate_tasks writes values and weights.

How two cells are compared under a measure made of them is said in effects.py.
"""

import math
from dataclasses import dataclass

import polars as pl

# How the error of a quantized model is expressed; q is its value, b that of its baseline.
RELATIVE = "relative"  # q / b - 1; its interval too
DROP = "drop"  # (b - q) / (1 - b), the accuracy drop; its interval is that of q - b
DIFFERENCE = "difference"  # q - b alone; its interval too
SHARE = "share"  # q as a share of the checkpoint's training tokens; its interval too
LOSS, TASK = "loss", "task"  # tables of the report


@dataclass(frozen=True)
class Part:
    """A part of the tokens on which a metric of loss is measured.

    Attributes:
        subset: its name in the column `subset`; None for all tokens.
        total: what is summed over the segments of a document.
        weight: by what the sum is divided, summed in the same way.
    """

    subset: str | None
    total: pl.Expr
    weight: pl.Expr


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as in the column `metric`.
        unit: of its values.
        error: RELATIVE, DROP, DIFFERENCE or SHARE.
        group: table of the report that shows it, LOSS or TASK; None if it stands in `measurements` alone.
        drawn: whether the figure `tasks` shows it.
        parts: how it is summed from evaluate_loss; empty for what is measured of tasks alone, or made of other metrics.
    """

    name: str
    unit: str
    error: str
    group: str | None
    drawn: bool = False
    parts: tuple[Part, ...] = ()


def per_token(column: str) -> tuple[Part, ...]:
    """The mean of a column over all tokens."""
    return (Part(None, pl.col(column), pl.col("tokens")),)


CROSS_ENTROPY = Metric("cross_entropy", "nats per token", RELATIVE, LOSS, parts=per_token("nll"))
KL = Metric("kl", "nats per token", DIFFERENCE, None, parts=per_token("kl"))
TOP1_AGREEMENT = Metric("top1_agreement", "share of tokens", DIFFERENCE, None, parts=per_token("agree"))
BITS_PER_BYTE = Metric(  # of the corpora, and of tasks that are texts
    *("bits_per_byte", "bits per byte", RELATIVE, TASK),
    drawn=True,
    parts=(Part(None, pl.col("nll") / math.log(2), pl.col("bytes")),),
)
LOSS_METRICS = (CROSS_ENTROPY, KL, TOP1_AGREEMENT, BITS_PER_BYTE)
TOKENS_LOST = Metric("tokens_lost", "training tokens", SHARE, None)  # made of cross-entropies: tokens_lost.py
TASK_METRICS = (
    Metric("accuracy", "share of documents", DROP, TASK, drawn=True),
    Metric("accuracy_norm", "share of documents", DROP, TASK),
    Metric("accuracy_bytes", "share of documents", DROP, TASK),
    Metric("exact_match", "share of documents", DIFFERENCE, TASK),
    BITS_PER_BYTE,
)
METRICS = {metric.name: metric for metric in (*LOSS_METRICS, *TASK_METRICS, TOKENS_LOST)}


def error_of(metric: Metric, value: float, baseline: float) -> float | None:
    """Column `relative`: the error of a value in the metric's terms; None for plain differences and division by 0."""
    if metric.error == RELATIVE:
        return value / baseline - 1 if baseline else None
    if metric.error == DROP:
        return (baseline - value) / (1 - baseline) if baseline != 1 else None
    return None


def error_words(metric: Metric) -> str:
    """The error as an axis calls it."""
    words = {
        DROP: "accuracy drop, share of 1 - baseline",
        RELATIVE: f"relative error, {metric.unit}",
        SHARE: f"share of the checkpoint's {metric.unit}",
    }
    return words.get(metric.error, f"difference, {metric.unit}")


def rows_of(measurements: pl.DataFrame, *chosen: Metric) -> pl.DataFrame:
    """Rows of `measurements` of these metrics on all tokens, without those of parts of the tokens."""
    return measurements.filter(pl.col("metric").is_in([metric.name for metric in chosen]), pl.col("subset").is_null())


def first_draws(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of `measurements` or `methods` without further draws of calibration text, which are there to tell noise."""
    return rows.filter(pl.col("draw").fill_null(1) == 1)


def rows_in(measurements: pl.DataFrame, group: str) -> pl.DataFrame:
    """Rows of `measurements` that a table of the report shows, those of parts of the tokens too.

    A dataset is a corpus if cross-entropy was measured on it, else a task.
    """
    corpora = measurements.filter(pl.col("metric") == CROSS_ENTROPY.name)["dataset"].unique()
    of_group = pl.col("metric").is_in([metric.name for metric in METRICS.values() if metric.group == group])
    return measurements.filter(of_group, pl.col("dataset").is_in(corpora.implode()) == (group == LOSS))
