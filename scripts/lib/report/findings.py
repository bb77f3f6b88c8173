"""The finding in words: a sentence for each claim, whose every number comes from the table `verdicts`."""

import math

import polars as pl

from scripts.lib.analysis.effects import MEASURES, PERCENT, PLAIN, POINTS, RATIO
from scripts.lib.analysis.metrics import CROSS_ENTROPY, rows_of

SPACE = "\u00a0"  # a space that does not break
PERCENTS = 100.0, f"{SPACE}%"
SCALES = {PLAIN: (1.0, ""), POINTS: (100.0, f"{SPACE}points"), PERCENT: PERCENTS, RATIO: PERCENTS}


def corpora(measurements: pl.DataFrame) -> list[str]:
    """Corpora on which loss was measured."""
    return sorted(rows_of(measurements, CROSS_ENTROPY)["dataset"].unique())


def interval(row: dict) -> str:
    """A relative error with its paired interval, in percent."""
    error, lower, upper = (row[name] for name in ("relative", "lower", "upper"))
    if lower is None or upper is None:
        return f"{100 * error:.2f}{SPACE}%"
    return f"{100 * error:.2f}{SPACE}% [{100 * lower:.2f}, {100 * upper:.2f}]"


def effect(row: dict) -> str:
    """The effect of a row of `comparisons` or `verdicts` with its interval, as its measure is shown."""
    if row["effect"] is None:
        return "–"
    measure = MEASURES[row["measure"]]
    scale, unit = SCALES[measure.shown]
    numbers = [row[name] for name in ("effect", "lower", "upper") if row[name] is not None]
    if measure.shown == RATIO:
        numbers = [math.expm1(number) for number in numbers]
    value, *bounds = (f"{scale * number:+.3g}" for number in numbers)
    return value + (f" [{', '.join(bounds)}]" if len(bounds) == 2 else "") + (unit or f"{SPACE}{row['unit']}")


def sentence(row: dict) -> str:
    """What a row of `verdicts` says of its claim."""
    told = f"{row['says']} {row['verdict'].capitalize()}"
    if row["effect"] is not None:
        told += f": {MEASURES[row['measure']].words} {effect(row)} by {row['method']}, {_runs(row)}"
    told += f" ({row['reason']})." if row["reason"] else "."
    if row["changed"]:
        told += f" The claim was changed after {row['fixed']}, when the study began."
    elif row["measured_before"]:
        told += f" The claim was written down when {row['measured_before']} losses had been measured already."
    return told


def _runs(row: dict) -> str:
    return f"{row['runs']} replicate{'s' * (row['runs'] != 1)}: {row['replicates']}"
