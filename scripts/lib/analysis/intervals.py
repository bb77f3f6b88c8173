"""Intervals of scores and of whatever is computed from them, with documents as the unit.

A score of a cell is sum(sums) / sum(sizes) over documents: cross-entropy is nats over tokens, accuracy is hits over
documents. Tokens of one document are not independent, documents are taken to be. Arrays of sums and sizes have shape
(..., documents), where a document that a cell did not see has size 0. All functions are pure.

*Influence values* carry the documents' noise of any effect: one number a document, in the unit of the effect. They sum
to 0 over documents, the sum of their squares is the effect's jackknife variance, and sums of products of two effects'
values are their covariance: the influence of a difference is the difference of the influences.

An interval is value +- t x standard error, with the degrees of freedom that the influence values themselves have.
tests/simulation.md has the measured coverage, beside that of the percentile bootstrap.
"""

import math
from collections.abc import Callable

import numpy as np
from scipy import special  # not scipy.stats, whose import costs every start of Snakemake a second

BISECTIONS = 60  # of [-1, 1]: to the last bit of a double


def mean(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weighted mean of each cell, shape (...); not a number where a cell has no size at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums.sum(axis=-1) / sizes.sum(axis=-1)


def jackknife(
    effect: Callable[[np.ndarray], np.ndarray], sums: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """An effect that is computed from the means of cells, and the influence of each document on it.

    Influence is effect - effect without the document, centred over the D documents that any cell saw, times
    sqrt((D - 1) / D): the sum of squares is the jackknife variance (Efron and Stein, Annals of Statistics 9, 1981).

    Args:
        effect: from means of shape (cells, n), n times alike, to effects of shape (..., n); e.g. the log ratio of two
            KLs is `lambda kl: np.log(kl[0] / kl[1])`.
        sums, sizes: shape (cells, documents).

    Returns:
        The effect, shape (...), and its influence values, shape (..., documents); these are not numbers where fewer
        than two documents were seen.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        without = (sums.sum(axis=-1, keepdims=True) - sums) / (sizes.sum(axis=-1, keepdims=True) - sizes)
        value = effect(mean(sums, sizes)[:, None])
        raw = value - effect(without)
        seen = (sizes > 0).any(axis=0)
        documents = seen.sum()
        raw = np.where(seen, raw, 0.0)
        centred = np.where(seen, raw - raw.sum(axis=-1, keepdims=True) / documents, 0.0)
    scale = np.sqrt((documents - 1) / documents) if documents > 1 else np.nan
    return value[..., 0], centred * scale


def variance(influence: np.ndarray) -> np.ndarray:
    """Variance of an effect from its influence values, shape (..., documents) -> (...)."""
    return (influence**2).sum(axis=-1)


def degrees_of_freedom(influence: np.ndarray) -> np.ndarray:
    """How well `variance` knows the variance, shape (..., documents) -> (...); at least 1, at most documents - 1.

    Satterthwaite's 2 V^2 / Var(V) with V = sum i^2 and Var(V) = sum i^4 - V^2 / D, less 1: D - 1 for D documents with
    normal contributions of equal size, less where some documents carry much. Not a number without any influence.
    """
    squares = influence**2
    total, documents = squares.sum(axis=-1), (influence != 0).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = squares / total[..., None]
        found = 2 / ((shares**2).sum(axis=-1) - 1 / documents) - 1
        return np.where(total > 0, np.maximum(np.minimum(found, documents - 1.0), 1.0), np.nan)


def effective_documents(sizes: np.ndarray) -> np.ndarray:
    """To how many documents of equal size these amount, shape (..., documents) -> (...): (sum n)^2 / sum n^2 (Kish)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sizes.sum(axis=-1) ** 2 / (sizes**2).sum(axis=-1)


def t_interval(value, variances, freedom, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """value -+ t(freedom) x sqrt(variances): (lower, upper), shapes of the arguments; of no width without variance.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    _require_share(confidence)
    with np.errstate(invalid="ignore"):
        wide = special.stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(variances)
        half = np.where(np.equal(variances, 0), 0.0, wide)
    return value - half, value + half


def document_interval(value, influence: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval of effects of shape (...) from their influence values (..., documents): (lower, upper)."""
    return t_interval(value, variance(influence), degrees_of_freedom(influence), confidence)


def paired_shares(gained, lost, documents, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of a difference of two shares of the same documents, e.g. of two accuracies: (lower, upper).

    Tango, Statistics in Medicine 17 (1998): the differences that a score test of paired outcomes does not reject, with
    the other parameter at its likelihood estimate. It has a width even where no document changed. Enumerated over all
    outcomes it covers at least 93.4 % for 20 to 200 documents, 96 to 99 % on average (tests/unit/test_intervals.py).

    Args:
        gained, lost: documents that only the first, only the second got right; arrays that broadcast.
        documents: all of them.
        confidence: coverage.
    """
    _require_share(confidence)
    gained, lost, documents = np.broadcast_arrays(*(np.asarray(n, dtype=float) for n in (gained, lost, documents)))
    quantile, estimate = special.ndtri((1 + confidence) / 2), (gained - lost) / documents

    def score(difference: np.ndarray) -> np.ndarray:
        b = (2 * documents - gained + lost) * difference - gained - lost
        c = -lost * difference * (1 - difference)
        share = (np.sqrt(np.maximum(b**2 - 8 * documents * c, 0)) - b) / (4 * documents)
        spread = documents * (2 * share + difference * (1 - difference))
        excess = gained - lost - documents * difference
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(spread > 0, excess / np.sqrt(spread), np.copysign(np.inf, excess))

    def root(low: np.ndarray, high: np.ndarray, target: float) -> np.ndarray:
        for _ in range(BISECTIONS):  # the score falls as the difference rises
            middle = (low + high) / 2
            above = score(middle) > target
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return (low + high) / 2

    return root(-np.ones_like(estimate), estimate, quantile), root(estimate, np.ones_like(estimate), -quantile)


def interval_of_mean(
    values: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of independent values over the last axis, e.g. over a suite's tasks: (mean, lower, upper).

    The squares of the half widths add up on each side (method of variance estimates recovery, Zou and Donner,
    Statistics in Medicine 27, 2008), so that exact intervals of single tasks keep their worth.
    """
    count, average = values.shape[-1], values.mean(axis=-1)
    below, above = (np.sqrt(((values - bound) ** 2).sum(axis=-1)) / count for bound in (lower, upper))
    return average, average - below, average + above


def known(value) -> float | None:
    """A number as tables hold it: None if there is none, or if it is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def _require_share(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; change it in the config")
