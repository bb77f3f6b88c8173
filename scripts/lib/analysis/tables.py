"""The tables that tabulate writes: each with its columns and their types, in order.

A table of another stage is declared where its rule calls `table_files` (workflow/rules/common.smk).
"""

from pathlib import Path

import polars as pl
from polars import selectors

from scripts.lib.analysis.contrasts import CONTRASTS
from scripts.lib.analysis.costs import COSTS


def _columns(*names: str, kind=pl.String) -> dict:
    return dict.fromkeys(names, kind)


POINT = {
    **_columns("step", "tokens", kind=pl.Int64),
    **_columns("learning_rate", kind=pl.Float64),
    **_columns("phase"),
}
CELL = ("trajectory", "checkpoint", "method")
RECIPE = {**_columns("library"), **_columns("bits", "group_size", kind=pl.Int64)}
NUMBERS = ("value", "stderr", "baseline", "difference", "relative", "lower", "upper")
CHECKPOINTS = {
    **_columns("trajectory", "checkpoint", "parent"),
    **POINT,
    **_columns("parameters", "bytes", kind=pl.Int64),
    **_columns("source", "revision"),
    **_columns("peak_learning_rate", kind=pl.Float64),
}
MEASUREMENTS = {
    **_columns("study", "trajectory", "checkpoint"),
    **POINT,
    **_columns("method"),
    **RECIPE,
    **_columns("metric", "dataset", "subset"),  # subset: a part of the tokens; null for all of them
    **_columns(*NUMBERS, kind=pl.Float64),
    **_columns("n", kind=pl.Int64),
    **_columns("n_effective", kind=pl.Float64),  # documents of equal size that carry as much
    **_columns("dtype"),
    **_columns("reason"),  # why the value or a bound is absent
}
SCHEDULES = {  # learning rates along each run, fine enough to be drawn
    **_columns("trajectory"),
    **_columns("step", "tokens", kind=pl.Int64),
    **_columns("learning_rate", kind=pl.Float64),
}
MISSING = _columns("study", *CELL, "stage", "dataset", "reason")
METHODS = {
    **_columns("method", "algorithm", "transform", "library", "package_version"),
    **_columns("bits", "group_size", kind=pl.Int64),
    **_columns("symmetric", kind=pl.Boolean),
    **_columns("bits_per_weight", "weight_error", "weight_error_lowest", "weight_error_highest", kind=pl.Float64),
    **_columns("calibration"),
    **_columns("cells", kind=pl.Int64),
}
VERSIONS = _columns("package", "version", "used_for")
TABLES = {
    "checkpoints": CHECKPOINTS,
    "schedules": SCHEDULES,
    "measurements": MEASUREMENTS,
    "contrasts": CONTRASTS,
    "missing": MISSING,
    "costs": COSTS,
    "methods": METHODS,
    "versions": VERSIONS,
}


def table(rows: list[dict], columns: dict, order: tuple[str, ...]) -> pl.DataFrame:
    """Rows as a table of these columns, sorted; what a row lacks, or holds as another type, is null."""
    series = [pl.Series(name, [row.get(name) for row in rows], kind, strict=False) for name, kind in columns.items()]
    return pl.DataFrame(series).sort(order, nulls_last=False, maintain_order=True)


def write_csv(rows: pl.DataFrame, path: Path | str) -> None:
    """Write a table as CSV, with a `'` before texts that a spreadsheet would take for a formula; numbers stay."""
    rows.with_columns(selectors.string().str.replace(r"^(\s*[=+\-@])", "'$1")).write_csv(path)
