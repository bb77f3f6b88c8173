"""The finding in words: sentences whose every number comes from the tables, honest about what is not resolved.

Two errors are called different only if the paired interval of their difference (table `contrasts`) leaves out zero.
"""

import polars as pl

from scripts.lib.analysis.contrasts import AVERAGED, DECAY, EQUAL_LOSS, GPTQ, PEAK, quantized_losses
from scripts.lib.analysis.metrics import CROSS_ENTROPY, rows_of
from scripts.lib.analysis.tracks import short_rate

HIGHER, LOWER, UNRESOLVED = "higher", "lower", "not resolved"
PERCENT = "\u00a0%"  # with a space that does not break
MOST_DETAILS = 4  # more cases than this are told by their range
NOTHING = {
    DECAY: "No decay of the learning rate can be compared with a run without it.",
    PEAK: "No two peak rates can be compared at equal loss.",
    AVERAGED: "No weight average can be compared with its run.",
    GPTQ: "GPTQ and round-to-nearest cannot be compared at equal bits and group size.",
}
CAVEAT = (
    "Brackets are paired intervals over documents; they do not hold the scatter between neighbouring "
    "checkpoints or between training seeds, so that one pair of checkpoints proves little."
)


def corpora(measurements: pl.DataFrame) -> list[str]:
    """Corpora on which loss was measured."""
    return sorted(rows_of(measurements, CROSS_ENTROPY)["dataset"].unique())


def narrow_methods(losses: pl.DataFrame) -> list[str]:
    """The 3-bit methods, or those with the fewest bits where there is none of 3 bits."""
    bits = set(losses["bits"].drop_nulls())
    chosen = 3 if 3 in bits or not bits else min(bits)
    return sorted(losses.filter(pl.col("bits") == chosen)["method"].unique())


def verdict(row: dict) -> str:
    """Whether the error of a row of `contrasts` is higher or lower than its reference's, or that is not resolved."""
    if row["difference_lower"] is None or row["difference_lower"] <= 0 <= row["difference_upper"]:
        return UNRESOLVED
    return HIGHER if row["difference_lower"] > 0 else LOWER


def finding(measurements: pl.DataFrame, checkpoints: pl.DataFrame, contrasts: pl.DataFrame, dataset: str) -> str:
    """The finding on one corpus, as one paragraph of plain text."""
    losses = quantized_losses(measurements, dataset)
    if losses.is_empty():
        return f"No quantized model has a loss on {dataset}, so that this study says nothing about quantization error."
    narrow = narrow_methods(losses)
    size = (
        f"On {dataset}, {_count(losses['method'].n_unique(), 'method')} were measured at "
        f"{_count(losses.select('trajectory', 'checkpoint').n_unique(), 'checkpoint')} of "
        f"{_count(losses['trajectory'].n_unique(), 'trajectory', 'trajectories')}."
    )
    sentences = [size]
    for kind, tell in TELLERS.items():
        part = contrasts.filter(pl.col("kind") == kind, pl.col("dataset") == dataset)
        methods = sorted(part["method"].unique()) if kind == GPTQ else narrow
        groups = [part.filter(pl.col("method") == method).to_dicts() for method in methods]
        told = [group for group in groups if group]
        sentences.append(tell(told[0]) + _same_for(told[1:]) if told else NOTHING[kind])
    return " ".join([*sentences, CAVEAT])


def interval(row: dict, prefix: str = "") -> str:
    """A relative error with its paired interval, in percent."""
    error, lower, upper = (row[f"{prefix}{name}"] for name in ("relative", "lower", "upper"))
    if lower is None or upper is None:
        return f"{100 * error:.2f}{PERCENT}"
    return f"{100 * error:.2f}{PERCENT} [{100 * lower:.2f}, {100 * upper:.2f}]"


def points(row: dict) -> str:
    """The difference of two errors with its paired interval, in percentage points."""
    if row["difference_lower"] is None:
        return f"{100 * row['difference']:+.2f}"
    bounds = f"[{100 * row['difference_lower']:+.2f}, {100 * row['difference_upper']:+.2f}]"
    return f"{100 * row['difference']:+.2f} {bounds}"


def _tell_decay(rows: list[dict]) -> str:
    fell = sum(row["baseline"] < row["reference_baseline"] for row in rows)
    return (
        f"At the end of the learning rate's decay the {_error(rows)} is {_split(rows)} "
        f"than without the decay: {_details(rows)}, while the baseline's loss is lower in {fell} of {len(rows)}."
    )


def _tell_average(rows: list[dict]) -> str:
    last = list({row["trajectory"]: row for row in rows}.values())
    fell = sum(row["baseline"] < row["reference_baseline"] for row in rows)
    return (
        f"The {_error(rows)} of averaged weights is {_split(rows)} than that of their run: {_details(last)}, "
        f"while the average's baseline loss is lower in {fell} of {len(rows)}."
    )


def _tell_peak(rows: list[dict]) -> str:
    closest = min(rows, key=lambda row: row["baseline"])
    return (
        f"At equal baseline loss (within {100 * EQUAL_LOSS:g} %, at a stable rate) the {_error(rows)} under the "
        f"higher peak rate is {_split(rows)}; at the lowest such loss, {closest['baseline']:.3f} and "
        f"{closest['reference_baseline']:.3f}, it is {interval(closest)} under {short_rate(closest['learning_rate'])} "
        f"and {interval(closest, 'reference_')} under {short_rate(closest['reference_learning_rate'])}."
    )


def _tell_gptq(rows: list[dict]) -> str:
    mean, reference = (100 * sum(row[name] for row in rows) / len(rows) for name in ("relative", "reference_relative"))
    return (
        f"The error of {rows[0]['method']} is {_split(rows)} than that of {rows[0]['reference_method']} "
        f"(means {mean:.2f} % and {reference:.2f} %)."
    )


def _same_for(groups: list[list[dict]]) -> str:
    """The verdicts of further methods, in brackets."""
    verdicts = "; ".join(f"{rows[0]['method']}: {_split(rows)}" for rows in groups)
    return f" ({verdicts}.)" if verdicts else ""


def _error(rows: list[dict]) -> str:
    bits = f"{rows[0]['bits']}-bit" if rows[0]["bits"] else "quantization"
    return f"{bits} error ({rows[0]['method']})"


TELLERS = {DECAY: _tell_decay, PEAK: _tell_peak, AVERAGED: _tell_average, GPTQ: _tell_gptq}


def _split(rows: list[dict]) -> str:
    """How the verdicts fall: "higher in 2 of 3 cases and not resolved in 1"."""
    kinds = [verdict(row) for row in rows]
    counts = {kind: kinds.count(kind) for kind in (HIGHER, LOWER, UNRESOLVED) if kind in kinds}
    first, *others = counts
    if first == UNRESOLVED:
        return f"not resolvably higher or lower in any of {_count(len(rows), 'case')}"
    others = [f"{kind} in {counts[kind]}" for kind in others]
    return " and ".join([f"{first} in {counts[first]} of {_count(len(rows), 'case')}", *others])


def _details(rows: list[dict]) -> str:
    """Both errors of every case, or their ranges where there are many."""
    if len(rows) > MOST_DETAILS:
        low, high = (f(row["difference"] for row in rows) for f in (min, max))
        return f"the differences lie between {100 * low:+.2f} and {100 * high:+.2f} percentage points"
    mixed = len({verdict(row) for row in rows}) > 1
    told = [f"{interval(row)} in {row['trajectory']} against {_against(row)}" for row in rows]
    return "; ".join(f"{text}, {verdict(row)}" if mixed else text for text, row in zip(told, rows, strict=True))


def _against(row: dict) -> str:
    same = row["step"] == row["reference_step"]
    steps = f"both at step {row['step']}" if same else f"steps {row['step']} and {row['reference_step']}"
    return f"{interval(row, 'reference_')} in {row['reference_trajectory']} ({steps})"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
