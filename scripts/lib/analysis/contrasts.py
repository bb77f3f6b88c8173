"""Contrasts: pairs of quantized cells whose relative errors are compared on the same documents.

A pair is two rows of `measurements`. Its interval is that of the difference of the two errors on the same documents,
which is narrower than the two errors' own intervals suggest: documents that are hard for one
checkpoint are hard for the other.
"""

import itertools

import numpy as np
import polars as pl

from scripts.lib.analysis import intervals
from scripts.lib.analysis.metrics import CROSS_ENTROPY, first_draws, rows_of
from scripts.lib.analysis.tracks import AVERAGE, BRANCH, TRUNK, Track, tracks

DECAY, PEAK, AVERAGED, GPTQ = "decay", "peak rate", "average", "gptq"
GRID = ("bits", "group_size", "symmetric")  # what the recipes of a pair of methods share
EQUAL_LOSS = 0.01  # two baseline losses count as equal within this share
SIDE = {
    **dict.fromkeys(("method", "trajectory", "checkpoint", "phase"), pl.String),
    "step": pl.Int64,
    **dict.fromkeys(("learning_rate", "baseline", "relative", "lower", "upper"), pl.Float64),
}
CONTRASTS = {
    **dict.fromkeys(("study", "kind", "dataset"), pl.String),
    "bits": pl.Int64,
    **SIDE,
    **{f"reference_{name}": kind for name, kind in SIDE.items()},
    **dict.fromkeys(("difference", "difference_lower", "difference_upper"), pl.Float64),
}
Pair = tuple[str, dict, dict]  # kind, row, reference


def contrasts_table(
    measurements: pl.DataFrame, checkpoints: pl.DataFrame, recipes: dict[str, dict], influence: dict, confidence: float
) -> pl.DataFrame:
    """One row a pair: both errors with their intervals, and `difference` = error - reference's error with its own.

    Args:
        measurements, checkpoints: the tables.
        recipes: method -> its recipe.
        influence: documents' influence values on relative errors of cross-entropy, {dataset: {cell: (documents,)}}.
        confidence: coverage of the intervals.
    """
    found, rows = tracks(checkpoints), []
    for dataset, shares in influence.items():
        losses = quantized_losses(measurements, dataset)
        pairs = decay_pairs(losses, found) + peak_pairs(losses, found) + average_pairs(losses, found)
        pairs += gptq_pairs(losses, recipes)
        rows += [_row(kind, row, reference, shares, confidence) for kind, row, reference in pairs]
    return pl.DataFrame([[row[name] for name in CONTRASTS] for row in rows], schema=CONTRASTS, orient="row")


def _row(kind: str, row: dict, reference: dict, influence: dict, confidence: float) -> dict:
    one, other = (influence[side["trajectory"], side["checkpoint"], side["method"]] for side in (row, reference))
    difference = row["relative"] - reference["relative"]
    bounds = [float(bound) for bound in intervals.document_interval(difference, one - other, confidence)]
    known = row["lower"] is not None and np.isfinite(bounds).all()
    return {
        **row,
        "kind": kind,
        **{f"reference_{name}": reference[name] for name in SIDE},
        "difference": difference,
        "difference_lower": bounds[0] if known else None,
        "difference_upper": bounds[1] if known else None,
    }


def quantized_losses(measurements: pl.DataFrame, dataset: str) -> pl.DataFrame:
    """Cross-entropy rows of the quantized models on one corpus, by step."""
    part = first_draws(rows_of(measurements, CROSS_ENTROPY)).filter(pl.col("dataset") == dataset)
    return part.filter(pl.col("method") != "none").sort("trajectory", "step", "checkpoint", "method")


def decay_pairs(losses: pl.DataFrame, found: list[Track]) -> list[Pair]:
    """Ends of decays against no decay.

    A branch whose rate fell is compared with its parent at the same step (else at the nearest step that was measured).
    A trunk that decays by itself is compared with its own last checkpoint before the decay.
    """
    pairs = []
    for track in found:
        for method in losses["method"].unique(maintain_order=True).sort():
            rows = _rows(losses, track.name, method)
            if not rows or rows[-1]["phase"] != "decay":
                continue
            if track.kind == BRANCH and (others := _rows(losses, track.parent, method)):
                pairs.append((DECAY, rows[-1], _nearest(others, "step", rows[-1]["step"])))
            elif track.kind == TRUNK and (before := [row for row in rows if row["phase"] == "stable"]):
                pairs.append((DECAY, rows[-1], before[-1]))
    return pairs


def average_pairs(losses: pl.DataFrame, found: list[Track]) -> list[Pair]:
    """Every average against the run that it averages, at the same (else the nearest) step."""
    pairs = []
    for track in found:
        if track.kind == AVERAGE and track.parent:
            for row in losses.filter(pl.col("trajectory") == track.name).iter_rows(named=True):
                if others := _rows(losses, track.parent, row["method"]):
                    pairs.append((AVERAGED, row, _nearest(others, "step", row["step"])))
    return pairs


def peak_pairs(losses: pl.DataFrame, found: list[Track]) -> list[Pair]:
    """Higher against lower peak rate at equal baseline loss, for trunks of equal size.

    Each stable checkpoint of the higher peak is paired with the other trunk's stable checkpoint of the nearest baseline
    loss; pairs whose losses differ by more than `EQUAL_LOSS` are left out. Peaks are compared with the next lower one.
    """
    trunks = [track for track in found if track.kind == TRUNK and track.peak]
    pairs = []
    for low, high in itertools.pairwise(trunks):
        if low.peak == high.peak or low.points["parameters"][0] != high.points["parameters"][0]:
            continue
        for method in losses["method"].unique(maintain_order=True).sort():
            others = [row for row in _rows(losses, low.name, method) if row["phase"] == "stable"]
            for row in _rows(losses, high.name, method):
                if row["phase"] == "stable" and others:
                    other = _nearest(others, "baseline", row["baseline"])
                    if abs(other["baseline"] / row["baseline"] - 1) <= EQUAL_LOSS:
                        pairs.append((PEAK, row, other))
    return pairs


def gptq_pairs(losses: pl.DataFrame, recipes: dict[str, dict]) -> list[Pair]:
    """GPTQ against round-to-nearest on the same grid, at every checkpoint that has both.

    Args:
        recipes: method -> its recipe.
    """
    rows = {(row["trajectory"], row["checkpoint"], row["method"]): row for row in losses.iter_rows(named=True)}
    references = plain_partners(recipes)
    pairs = []
    for (trajectory, checkpoint, method), row in rows.items():
        if reference := rows.get((trajectory, checkpoint, references.get(method))):
            pairs.append((GPTQ, row, reference))
    return pairs


def plain_partners(recipes: dict[str, dict]) -> dict[str, str]:
    """GPTQ's methods with round-to-nearest of the same bits, group size and symmetry; neither with a transform.

    The reference is this project's own round-to-nearest, whose library is called as its algorithm.
    """
    plain = {method: recipe for method, recipe in recipes.items() if "transform" not in recipe}
    by_grid = {
        _grid(recipe): name for name, recipe in plain.items() if recipe["algorithm"] == recipe["library"] == "rtn"
    }
    ours = {method: _grid(recipe) for method, recipe in plain.items() if recipe["algorithm"] == "gptq"}
    return {method: by_grid[grid] for method, grid in ours.items() if grid in by_grid}


def _grid(recipe: dict) -> tuple:
    return tuple(recipe.get(key) for key in GRID)


def _rows(losses: pl.DataFrame, trajectory: str, method: str) -> list[dict]:
    part = losses.filter(pl.col("trajectory") == trajectory, pl.col("method") == method)
    return part.sort("step", "checkpoint").to_dicts()


def _nearest(rows: list[dict], column: str, value: float) -> dict:
    return min(rows, key=lambda row: abs(row[column] - value))
