"""The tables that tabulate writes: each with its columns and their types, in order.

A table of another stage is declared where its rule calls `table_files` (workflow/rules/common.smk).
"""

from pathlib import Path

import polars as pl
from polars import selectors

from scripts.lib.analysis.choices import CHOICES
from scripts.lib.analysis.costs import COSTS
from scripts.lib.analysis.datasets import DATASETS
from scripts.lib.analysis.judging import COMPARISONS, VERDICTS
from scripts.lib.analysis.noise import NOISE
from scripts.lib.analysis.training import TRAINING


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
RUNS = {  # and a column for each coordinate, of a type of its own, see `runs_table`
    **_columns("trajectory", "family", "root", "kind", "parent", "parent_checkpoint"),
}
CHECKPOINTS = {
    **_columns("trajectory", "family", "checkpoint", "parent"),
    **POINT,
    **_columns("architecture"),
    **_columns("parameters", "bytes", kind=pl.Int64),
    **_columns("source", "revision"),
    **_columns("peak_learning_rate", kind=pl.Float64),
}
MEASUREMENTS = {
    **_columns("study", "trajectory", "family", "checkpoint"),
    **POINT,
    **_columns("method", "recipe"),
    **_columns("draw", kind=pl.Int64),  # of calibration text, from 1; null without any
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
    **_columns("method", "recipe"),
    **_columns("draw", kind=pl.Int64),
    **_columns("algorithm", "transform", "library", "package_version"),
    **_columns("bits", "group_size", kind=pl.Int64),
    **_columns("symmetric", kind=pl.Boolean),
    **_columns("bits_per_weight", "weight_error", "weight_error_lowest", "weight_error_highest", kind=pl.Float64),
    **_columns("calibration"),
    **_columns("cells", kind=pl.Int64),
}
VERSIONS = _columns("package", "version", "used_for")
TABLES = {
    "runs": RUNS,
    "checkpoints": CHECKPOINTS,
    "schedules": SCHEDULES,
    "training": TRAINING,
    "datasets": DATASETS,
    "measurements": MEASUREMENTS,
    "noise": NOISE,
    "comparisons": COMPARISONS,
    "verdicts": VERDICTS,
    "choices": CHOICES,
    "missing": MISSING,
    "costs": COSTS,
    "methods": METHODS,
    "versions": VERSIONS,
}

# Signs that begin a formula, as wide or small letters too, after what is blank, steers or is not shown.
FORMULA = r"^([\s\p{C}\p{Default_Ignorable_Code_Point}]*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212])"


def table(rows: list[dict], columns: dict, order: tuple[str, ...]) -> pl.DataFrame:
    """Rows as a table of these columns, sorted; what a row lacks, or holds as another type, is null."""
    series = [pl.Series(name, [row.get(name) for row in rows], kind, strict=False) for name, kind in columns.items()]
    return pl.DataFrame(series).sort(order, nulls_last=False, maintain_order=True)


def runs_table(runs: list[dict]) -> pl.DataFrame:
    """The table `runs`: the columns of `RUNS`, then the coordinates.

    A coordinate is Int64 if all its values are whole numbers, Float64 if all are numbers, else String; `seed` is Int64
    also where it is not known.

    Args:
        runs: of each trajectory the columns of `RUNS`, and `coordinates`, the same names for all.
    """
    kinds = {}
    for name in runs[0]["coordinates"] if runs else {"seed": None}:
        values = {type(run["coordinates"][name]) for run in runs} - {type(None)}
        kinds[name] = pl.Int64 if values <= {int} else pl.Float64 if values <= {int, float} else pl.String
    return table([run | run["coordinates"] for run in runs], RUNS | kinds, ("trajectory",))


def write_csv(rows: pl.DataFrame, path: Path | str) -> None:
    """Write a table as CSV, with a `'` before texts that a spreadsheet would take for a formula; numbers stay."""
    rows.with_columns(selectors.string().str.replace(FORMULA, "'$1")).write_csv(path)
