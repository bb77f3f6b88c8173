"""Tokens lost: how much training the loss of a quantized model stands for, on the loss of its own unquantized run.

The question is at which earlier point of the run the loss was, for the last time, as high as the quantized model's. The
run's measured checkpoints up to the cell's give its loss; between two of them it is taken to be linear in the logarithm
of the tokens. A loss that falls as a power of the tokens with a small exponent a (0.1 to 0.3 is usual) bends a times
less over the logarithm than over the tokens themselves, a / (1 + a); within a decay, whose checkpoints lie close, both
say the same.
"""

import numpy as np
import polars as pl

from scripts.lib.analysis.tracks import Track, tracks

Cell = tuple[str, str]  # trajectory, checkpoint


def history(checkpoints: pl.DataFrame) -> dict[Cell, dict[Cell, int]]:
    """For every checkpoint, the checkpoints of its run up to itself, each with its training tokens, in their order.

    A branch's run goes back through its parent, to where it started; an average's through the run that it averages, to
    before its first checkpoint. Checkpoints without tokens, untrained ones too, are left out.

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
