"""Tokens lost: how much training the loss of a quantized model stands for, on the loss of its own unquantized run.

The question is at which earlier point of the run the loss was, for the last time, as high as the quantized model's. The
run's measured checkpoints up to the cell's give its loss; between two of them it is taken to be linear in the logarithm
of the tokens. A loss that falls as a power of the tokens with a small exponent a (0.1 to 0.3 is usual) bends a times
less over the logarithm than over the tokens themselves, a / (1 + a); within a decay, whose checkpoints lie close, both
say the same.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from scripts.lib.analysis.intervals import document_interval, jackknife
from scripts.lib.analysis.tracks import Track, tracks

Cell = tuple[str, str]  # trajectory, checkpoint


def history(checkpoints: pl.DataFrame) -> dict[Cell, dict[Cell, int]]:
    """For every checkpoint, the checkpoints of its run up to itself, each with its training tokens, in their order.

    A branch's run goes back through its parent, to where it started; an average's through the run that it averages, to
    before its first checkpoint, and so does a branch whose start is not in the table. Checkpoints without tokens,
    untrained ones too, are left out.

    Args:
        checkpoints: the table.
    """
    found = {track.name: track for track in tracks(checkpoints.filter(pl.col("tokens") > 0))}
    runs = {}
    for track in found.values():
        run = _run(track, found) | _points(track)
        for cell, tokens in _points(track).items():
            before = {other: count for other, count in run.items() if count < tokens}
            runs[cell] = dict(sorted(before.items(), key=lambda item: item[1])) | {cell: tokens}
    return runs


def _run(track: Track, found: dict[str, Track], seen: frozenset[str] = frozenset()) -> dict[Cell, int]:
    """Checkpoints of the parents of a trajectory that belong to its run, with their tokens."""
    parent = found.get(track.parent)
    if parent is None or parent.name in seen:
        return {}
    points = _points(parent)
    limit = points.get((parent.name, track.start), min(_points(track).values()) - 1)
    run = _run(parent, found, seen | {track.name}) | points
    return {cell: tokens for cell, tokens in run.items() if tokens <= limit}


def _points(track: Track) -> dict[Cell, int]:
    return {(track.name, name): tokens for name, tokens in track.points.select("checkpoint", "tokens").iter_rows()}


def tokens_lost(loss: np.ndarray, trained: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Training tokens between a checkpoint and the last earlier point at which its run's loss was this high.

    Zero where the loss is not above the checkpoint's own; infinite where it is above the loss of every checkpoint.
    Complex numbers are followed by their real parts, for derivatives.

    Args:
        loss: of the quantized model, (...).
        trained: training tokens of the run's checkpoints up to the quantized one, ascending, (checkpoints,).
        losses: of these checkpoints, unquantized, (..., checkpoints).
    """
    above = losses.real >= np.asarray(loss).real[..., None]
    before = np.minimum(len(trained) - 1 - above[..., ::-1].argmax(axis=-1), max(len(trained) - 2, 0))
    after = np.minimum(before + 1, len(trained) - 1)
    high, low = (np.take_along_axis(losses, index[..., None], axis=-1)[..., 0] for index in (before, after))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (high - loss) / (high - low)
        point = np.exp(np.log(trained[before]) + share * (np.log(trained[after]) - np.log(trained[before])))
    nothing, beyond = above[..., -1], ~above.any(axis=-1)
    return np.where(nothing, 0.0, np.where(beyond, np.inf, trained[-1] - point))


@dataclass(frozen=True)
class Lost:
    """Tokens lost of one cell.

    Attributes:
        value: training tokens; None where the run's measured curve does not say.
        share: of the checkpoint's training tokens, with `lower` and `upper`.
        reason: why a number is absent; None if none is, or there are too few documents for an interval.
    """

    value: float | None = None
    share: float | None = None
    lower: float | None = None
    upper: float | None = None
    reason: str | None = None


def estimate(
    quantized: np.ndarray, curve: np.ndarray, sizes: np.ndarray, trained: np.ndarray, confidence: float
) -> Lost:
    """Tokens lost, with an interval of documents; what lies before the measured checkpoints is absent.

    The interval holds the points of the run whose loss is not resolved from the quantized model's (Fieller's way): at
    each checkpoint the difference of the two losses has its interval of documents, paired, and where its lower end,
    the difference itself and its upper end pass zero for the last time are `lower`, `share` and `upper`.

    Args:
        quantized: negative log-likelihood of the quantized model, (documents,).
        curve: of the run's unquantized checkpoints, (checkpoints, documents).
        sizes: tokens, (documents,).
        trained: as `tokens_lost` takes it.
        confidence: coverage of the interval.
    """
    if not len(trained):
        return Lost(reason="its checkpoint has no known number of training tokens")
    sums = np.vstack([quantized, curve])
    excess, influence = jackknife(lambda means: means[0] - means[1:], sums, np.broadcast_to(sizes, sums.shape))
    bounds = document_interval(excess, influence, confidence)
    share, lower, upper = (tokens_lost(np.zeros(()), trained, -end) / trained[-1] for end in (excess, *bounds))
    measured = np.isfinite(bounds).all()
    lower, upper = (lower, upper) if measured else (np.inf, np.inf)
    share, lower, upper = (float(number) if np.isfinite(number) else None for number in (share, lower, upper))
    value = None if share is None else share * trained[-1]
    return Lost(value, share, lower, upper, _reason(trained, share, measured and upper is None))


def _reason(trained: np.ndarray, share: float | None, open_ended: bool) -> str | None:
    if len(trained) == 1 and (share is None or open_ended):
        return "no earlier checkpoint of its run was measured"
    if share is None:
        return f"its run had this loss before {trained[0]:.0f} tokens, where the measured checkpoints begin"
    ends = f"the interval goes back to before {trained[0]:.0f} tokens, where the measured checkpoints begin"
    return ends if open_ended else None
