"""The logs of training, made small: the table `training`."""

from collections.abc import Iterable
from pathlib import Path

import polars as pl

MOST_LINES = 200  # of the longest run
AT_STEP = ("trajectory", "step", "tokens", "learning_rate")  # of a line, beside means
TRAINING = {
    "trajectory": pl.String,
    **dict.fromkeys(("step", "tokens"), pl.Int64),
    **dict.fromkeys(("loss", "learning_rate", "gradient_norm", "weight_norm"), pl.Float64),
}


def training_table(logs: Iterable[dict]) -> pl.DataFrame:
    """The logs of all runs that were trained here, thinned alike; what is not there is left out.

    Each line is the mean over as many updates as give the longest run MOST_LINES, so that all are as noisy.

    Args:
        logs: of each run: trajectory, tokens_per_step, and `files`, the logs of its links as `train` writes them.
    """
    found = []
    for run in sorted(logs, key=lambda run: run["trajectory"]):
        links = [pl.read_parquet(path) for path in map(Path, run["files"]) if path.is_file()]
        if links:
            name, tokens = pl.lit(run["trajectory"]), pl.col("step") * run["tokens_per_step"]
            log = pl.concat(links, how="diagonal_relaxed").sort("step")
            found.append(log.with_columns(trajectory=name, tokens=tokens))
    several = -(-max(map(len, found), default=0) // MOST_LINES) or 1
    empty = pl.DataFrame(schema=TRAINING)
    return pl.concat([empty, *(thinned(log, several) for log in found)], how="diagonal_relaxed").cast(TRAINING)


def thinned(log: pl.DataFrame, several: int) -> pl.DataFrame:
    """A run's log of training with one line for so many, the mean over them; rates and places are those of the last.

    Args:
        log: trajectory, step, tokens, learning_rate and further numbers, a row an update that was logged, in order.
    """
    group = (pl.int_range(pl.len()) - pl.len()) // several  # counted from the end, so that the last step is kept
    lines = log.group_by(group.alias("group"), maintain_order=True)
    return lines.agg(pl.col(AT_STEP).last(), pl.exclude(AT_STEP).mean()).select(log.columns)
