"""Measures of a quantized model, and the effect of a comparison of two of them, each defined once.

A measure is a function of sums over documents: what a cell (a checkpoint and a method) has is a `Sums`, and every
function here works on the sums over all documents. So one definition gives the value, the effect, and by its derivative
what each document contributes to the effect, which intervals are made of. Pure functions.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import polars as pl

from scripts.lib.analysis.measures import Measure as Measured
from scripts.lib.analysis.metrics import BITS_PER_BYTE, CROSS_ENTROPY, KL, TOKENS_LOST, TOP1_AGREEMENT
from scripts.lib.analysis.tokens_lost import Cell, tokens_lost

BASELINE = "none"
BITS = 1 / math.log(2)
STEP = 1e-30  # of derivatives along the imaginary axis, where no digits are lost
# How an effect is shown.
PLAIN = "plain"  # as it is, in the measure's unit
POINTS = "points"  # 100 times, in percentage points
PERCENT = "percent"  # 100 times, in percent: a share
RATIO = "ratio"  # a logarithm of a ratio: 100 times exp(effect) - 1, in percent


@dataclass(frozen=True)
class Sums:
    """What a cell has by document (..., documents), or summed over documents (...).

    Attributes:
        quantized, baseline: negative log-likelihood of the quantized model and of its checkpoint, nats.
        kl: divergence of the predictions from the checkpoint's, nats.
        agree: tokens of which both models hold the same one most likely.
        tokens, bytes: of the text that was predicted.
        curve: negative log-likelihood of the unquantized run up to the checkpoint, (..., checkpoints, documents), or
            (..., checkpoints).
        trained: training tokens of these checkpoints, (checkpoints,).
        bend: second derivative of the negative log-likelihood towards the quantized weights, by the square of their
            distance, on the tokens that were sliced; zeros if none were.
        sliced: of these tokens, their number.
    """

    quantized: np.ndarray
    baseline: np.ndarray
    kl: np.ndarray
    agree: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray
    curve: np.ndarray
    trained: np.ndarray
    bend: np.ndarray | None = None
    sliced: np.ndarray | None = None

    def __post_init__(self):
        for name in ("bend", "sliced"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.zeros_like(self.tokens, dtype=np.float64))

    def total(self, weights: np.ndarray | None = None) -> "Sums":
        """The sums over documents; with weights (..., documents), such as counts of resamples, those of each."""
        weights = np.ones(self.tokens.shape[-1]) if weights is None else weights
        return replace(self, **{name: weights @ getattr(self, name).T for name in SUMMED})


SUMMED = tuple(field.name for field in fields(Sums) if field.name != "trained")


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: as in the column `measure`.
        words: what the report calls it.
        unit: of the effect as it is.
        value: of a cell, from its totals; None if only pairs have it.
        effect: of a cell against its reference, from the totals of both.
        shown: PLAIN, POINTS, PERCENT or RATIO.
        neutral: the effect at which quantization did as much harm to both; None for what holds other than this harm.
        better: the sign of an effect, less `neutral`, of less harm.
        needs: name of a measure whose interval must leave out zero, or this one is absent; None if there is no such.
    """

    name: str
    words: str
    unit: str
    value: Callable[[Sums], np.ndarray] | None
    effect: Callable[[Sums, Sums], np.ndarray]
    shown: str
    neutral: float | None = 0.0
    better: int = -1
    needs: str | None = None


def without_quantization(cell: Sums) -> Sums:
    """What the cell's checkpoint has by itself."""
    return replace(cell, quantized=cell.baseline, kl=np.zeros_like(cell.kl), agree=cell.tokens, bend=None, sliced=None)


def relative_error(cell: Sums) -> np.ndarray:
    """The paper's: CE(quantized) / CE(baseline) - 1."""
    return cell.quantized / cell.baseline - 1


def penalty(cell: Sums) -> np.ndarray:
    """Loss that quantization adds, nats per token."""
    return (cell.quantized - cell.baseline) / cell.tokens


def penalty_bits(cell: Sums) -> np.ndarray:
    """Loss that quantization adds, bits per byte."""
    return BITS * (cell.quantized - cell.baseline) / cell.bytes


def loss(cell: Sums) -> np.ndarray:
    """Loss after quantization, nats per token."""
    return cell.quantized / cell.tokens


def loss_bits(cell: Sums) -> np.ndarray:
    """Loss after quantization, bits per byte."""
    return BITS * cell.quantized / cell.bytes


def unquantized(cell: Sums) -> np.ndarray:
    """Loss of the checkpoint, nats per token."""
    return cell.baseline / cell.tokens


def divergence(cell: Sums) -> np.ndarray:
    """KL(baseline || quantized), nats per token."""
    return cell.kl / cell.tokens


def agreement(cell: Sums) -> np.ndarray:
    """Share of tokens of which both models hold the same one most likely."""
    return cell.agree / cell.tokens


def curvature(cell: Sums) -> np.ndarray:
    """Of the loss towards the quantized weights, nats per token for a distance as long as the weights themselves."""
    return cell.bend / cell.sliced


def share_lost(cell: Sums) -> np.ndarray:
    """Tokens lost as a share of the checkpoint's."""
    if not len(cell.trained):
        return np.full_like(cell.tokens, np.nan)
    losses = cell.curve / np.asarray(cell.tokens)[..., None]
    return tokens_lost(loss(cell), cell.trained, losses) / cell.trained[-1]


def difference(value: Callable[[Sums], np.ndarray]) -> Callable[[Sums, Sums], np.ndarray]:
    """The effect as a difference: this cell's value - its reference's."""
    return lambda this, reference: value(this) - value(reference)


def log_ratio(value: Callable[[Sums], np.ndarray]) -> Callable[[Sums, Sums], np.ndarray]:
    """The effect as ln(this cell's value / its reference's)."""
    return lambda this, reference: np.log(value(this) / value(reference))


def gain(this: Sums, reference: Sums) -> np.ndarray:
    """By how much the unquantized loss is lower than the reference's, nats per token."""
    return unquantized(reference) - unquantized(this)


def gain_kept(this: Sums, reference: Sums) -> np.ndarray:
    """The share of that gain which is there after quantization, too."""
    return (loss(reference) - loss(this)) / gain(this, reference)


GAIN = Measure("gain", "gain before quantization", "nats per token", None, gain, PLAIN, neutral=None)
MEASURES = {
    measure.name: measure
    for measure in (
        Measure("relative_error", "relative error", "share", relative_error, difference(relative_error), POINTS),
        Measure(KL.name, "KL", "log ratio", divergence, log_ratio(divergence), RATIO),
        Measure("penalty", "penalty", "nats per token", penalty, difference(penalty), PLAIN),
        Measure("penalty_bits", "penalty", "bits per byte", penalty_bits, difference(penalty_bits), PLAIN),
        Measure("loss", "loss after quantization", "nats per token", loss, difference(loss), PLAIN, neutral=None),
        Measure("loss_bits", "loss after quantization", "bits per byte", loss_bits, difference(loss_bits), PLAIN, None),
        Measure(TOP1_AGREEMENT.name, "top-1 agreement", "share", agreement, difference(agreement), POINTS, better=1),
        GAIN,
        Measure("gain_kept", "gain kept", "share", None, gain_kept, PERCENT, 1.0, 1, needs=GAIN.name),
        Measure("curvature", "curvature", "log ratio", curvature, log_ratio(curvature), RATIO, neutral=None),
        Measure(TOKENS_LOST.name, "tokens lost", "share", share_lost, difference(share_lost), POINTS),
    )
}


def effect(measure: Measure, this: Sums, reference: Sums) -> float:
    """The effect of a cell against its reference under a measure; both have the same documents in the same order.

    Not finite where it is not defined: a KL of zero, a gain of zero, a loss that the run's measured curve never had.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(measure.effect(this.total(), reference.total()))


def influence(measure: Measure, this: Sums, reference: Sums) -> np.ndarray:
    """What each document contributes to the effect, to first order: (documents,), which sum to about zero.

    The delta method (Cochran, Sampling Techniques, 3rd ed., 6.4): derivatives of the effect with respect to the sums of
    both cells, times what a document adds to these sums. Derivatives are taken along the imaginary axis (Squire and
    Trapp, SIAM Review 40 (1998) 110), exact to the last digits. The effect's variance over draws of documents is
    D / (D - 1) times the sum of the squares. Not numbers where the effect is none.
    """
    totals = (this.total(), reference.total())
    found = np.zeros(this.tokens.shape[-1])
    if not math.isfinite(effect(measure, this, reference)):
        return np.full_like(found, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        for side, cell in enumerate((this, reference)):
            for name in SUMMED:
                for index in np.ndindex(getattr(totals[side], name).shape):
                    slope = measure.effect(*_shifted(totals, side, name, index)).imag / STEP
                    found += slope * getattr(cell, name)[index]
    return found


def _shifted(totals: tuple[Sums, Sums], side: int, name: str, index: tuple) -> list[Sums]:
    """The totals of both sides, one of them moved a little along the imaginary axis."""
    moved = np.array(getattr(totals[side], name), dtype=complex)
    moved[index] += 1j * STEP
    return [replace(cell, **{name: moved}) if here == side else cell for here, cell in enumerate(totals)]


def sums_of_cells(
    measured: Iterable[Measured],
    history: dict[Cell, dict[Cell, int]],
    bends: dict[tuple[str, tuple[str, str, str]], dict[str, tuple[float, float]]] | None = None,
) -> dict[tuple[str, tuple[str, str, str]], Sums]:
    """The sums of every quantized cell whose loss was measured, by dataset and cell (trajectory, checkpoint, method).

    Documents of all cells of a dataset that were evaluated on the same tokens are in the same order. Checkpoints of a
    run whose loss was not measured on the same documents are no part of its curve.

    Args:
        measured: as `measures.paired` gives them.
        history: as `tokens_lost.history` gives it.
        bends: as `mechanism.bends` gives them.
    """
    whole = {(item.dataset, item.cell, item.metric): item for item in measured if item.subset is None}
    found = {}
    for (dataset, cell, metric), item in whole.items():
        if metric != CROSS_ENTROPY.name or cell[2] == BASELINE:
            continue
        own, base = cell[:2], whole[dataset, (*cell[:2], BASELINE), metric]
        run = {other: whole.get((dataset, (*other, BASELINE), metric)) for other in history.get(own, {})}
        run = {other: point for other, point in run.items() if point is not None and _same(point, base)}
        found[dataset, cell] = Sums(
            item.sums,
            base.sums,
            *(whole[dataset, cell, other.name].sums for other in (KL, TOP1_AGREEMENT)),
            item.sizes,
            whole[dataset, cell, BITS_PER_BYTE.name].sizes,
            np.array([point.sums for point in run.values()]).reshape(len(run), len(item.sums)),
            np.array([history[own][other] for other in run], dtype=np.float64),
            *_of_documents(item.documents, (bends or {}).get((dataset, cell), {})),
        )
    return found


def _of_documents(documents: np.ndarray, known: dict[str, tuple[float, float]]) -> np.ndarray:
    """Bend and sliced tokens of each document, (2, documents); zeros where nothing is known."""
    return np.array([known.get(document, (0.0, 0.0)) for document in documents]).reshape(len(documents), 2).T


def _same(one: Measured, other: Measured) -> bool:
    """Whether two cells were evaluated on the same tokens of the same documents."""
    return np.array_equal(one.documents, other.documents) and np.array_equal(one.sizes, other.sizes)


def disagreements(comparisons: pl.DataFrame) -> pl.DataFrame:
    """Comparisons of which two measures say the opposite, both with an interval that leaves out no harm nor benefit.

    Args:
        comparisons: the table; a row a measure of each comparison, with effect, lower and upper.

    Returns:
        One row a comparison and pair of measures: what tells the comparison, then `measure`, `effect`, `lower`, `upper`
        of the measure under which this cell was harmed more than its reference, and `other_measure`, `other_effect`,
        `other_lower`, `other_upper` of the one under which it was harmed less.
    """
    numbers = ("measure", "effect", "lower", "upper")
    judged = {name: measure for name, measure in MEASURES.items() if measure.neutral is not None}
    known = comparisons.filter(pl.col("measure").is_in(list(judged)))
    neutral = pl.col("measure").replace_strict({name: m.neutral for name, m in judged.items()}, default=None)
    better = pl.col("measure").replace_strict({name: m.better for name, m in judged.items()}, default=None)
    above, below = pl.col("lower") > neutral, pl.col("upper") < neutral
    harmed = pl.when(better < 0).then(above).otherwise(below)
    helped = pl.when(better < 0).then(below).otherwise(above)
    place = [name for name in PLACE if name in comparisons.columns]
    more = known.filter(harmed).select(*place, *numbers)
    less = known.filter(helped).select(*place, *(pl.col(name).alias(f"other_{name}") for name in numbers))
    return more.join(less, on=place, nulls_equal=True).sort(*place, "measure", "other_measure")


SIDE = ("trajectory", "checkpoint")
PLACE = ("study", "claim", "method", "dataset", "run", *SIDE, *(f"reference_{name}" for name in (*SIDE, "method")))
