"""What penalties are made of, in the report: a row a cell, and a row a block and kind of layer."""

import polars as pl
from great_tables import GT

from scripts.lib.analysis.mechanism import PARTS
from scripts.lib.analysis.metrics import KL
from scripts.lib.report.numbers import percent, with_interval
from scripts.lib.report.tables import table, wrapped

NOTHING_SLICED = "This study slices no cell: name corpora under `slices` in its blocks of cells."
WAYS = {  # column and words of what the figure shows
    "penalty": "penalty\n(nats per token)",
    "size": "size: |W_q - W| / |W|",
    "curvature": "curvature",
    "factor": "factor of the rest",
}
KINDS = dict(zip(PARTS, ("block", "kind of layer"), strict=True))
PLACE = ("trajectory", "checkpoint", "method", "dataset")


def drawable(mechanism: pl.DataFrame) -> dict[str, dict[tuple[str, str, str], pl.DataFrame]]:
    """What the figure shows: of each of `WAYS` the cells by (dataset, method, trajectory), sorted by step."""
    rows = mechanism.with_columns(factor=pl.col("log_remainder").exp()).sort("step", "checkpoint")
    keys = ("dataset", "method", "trajectory")
    return {name: rows.filter(pl.col(name) > 0).partition_by(*keys, as_dict=True, maintain_order=True) for name in WAYS}


def shown(mechanism: pl.DataFrame) -> GT:
    """A row a cell: what its penalty is made of."""
    rows = mechanism.to_dicts()
    frame = mechanism.select(
        *PLACE,
        pl.Series("size", [percent(row["size"]) for row in rows], pl.String),
        pl.Series("penalty", [_with_error(row, "penalty") for row in rows], pl.String),
        pl.Series("slope", [_with_error(row, "slope") for row in rows], pl.String),
        (pl.col("bend") / 2).alias("half the bend"),
        pl.col("remainder").alias("rest"),
        pl.Series("curvature", [_with_error(row, "curvature") for row in rows], pl.String),
        "reason",
    )
    made = table("mechanism", _without_one(frame), NOTHING_SLICED).fmt_number(["half the bend", "rest"], decimals=4)
    return made.cols_hide("reason") if frame["reason"].is_null().all() else wrapped(made, "reason")


def beside(mechanism: pl.DataFrame) -> GT:
    """A row a cell: along a random direction, and the sums of what blocks and kinds of layers do alone."""
    frame = mechanism.select(*PLACE, "penalty", "sum_of_blocks", "sum_of_layers", "random_penalty", "random_curvature")
    made = table("mechanism_beside", _without_one(frame), NOTHING_SLICED)
    made = made.fmt_number(["penalty", "sum_of_blocks", "sum_of_layers", "random_penalty"], decimals=4)
    return made.fmt_number("random_curvature", n_sigfig=3)


def parts(rows: pl.DataFrame) -> GT:
    """A row a block and kind of layer of a cell."""
    frame = rows.select(
        *PLACE,
        pl.col("moved").replace(KINDS).alias("what"),
        "part",
        pl.Series("penalty", [_with_error(row, "penalty") for row in rows.to_dicts()], pl.String),
        pl.Series("share", [percent(share) for share in rows["share"]], pl.String),
        KL.name,
    )
    return table("mechanism_parts", _without_one(frame), NOTHING_SLICED).fmt_number(KL.name, decimals=4)


def _with_error(row: dict, column: str) -> str | None:
    """A number with two standard errors on both sides."""
    value, error = row[column], row[f"{column}_stderr"]
    if value is None or error is None:
        return with_interval(value, None, None)
    return with_interval(value, value - 2 * error, value + 2 * error)


def _without_one(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame without the dataset where there is one."""
    return frame.drop("dataset") if frame["dataset"].n_unique() <= 1 else frame
