"""Means, standard errors and paired intervals of token- or document-weighted scores, clustered by document.

A score of a cell is sum(sums) / sum(sizes) over documents: cross-entropy is nats over tokens, accuracy is hits over
documents. Tokens of one document are not independent, documents are taken to be, so documents are what is resampled.
All functions are pure; arrays have shape (cells, documents), where a document that a cell did not see has size 0.
"""

import zlib
from collections.abc import Iterator

import numpy as np

CHUNK_BYTES = 64_000_000


def mean(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Weighted mean of each cell, shape (cells,); not a number where a cell has no size at all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums.sum(axis=-1) / sizes.sum(axis=-1)


def clustered_stderr(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Standard error of `mean`, clustered by document, shape (cells,).

    Linearised ratio estimator (Cochran, Sampling Techniques, 3rd ed., eq. 6.13, as a cluster-robust variance):
    sqrt(D / (D - 1) * sum_d (sums_d - mean * sizes_d)^2) / sum_d sizes_d over the D documents that the cell saw.
    Not a number with fewer than two documents.
    """
    seen = (sizes > 0).sum(axis=-1)
    residuals = sums - mean(sums, sizes)[..., None] * sizes
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(seen > 1, seen / (seen - 1.0), np.nan)
        return np.sqrt(factor * (residuals**2).sum(axis=-1)) / sizes.sum(axis=-1)


def resamples(documents: int, draws: int, seed: int, name: str = "") -> Iterator[np.ndarray]:
    """Bootstrap counts in chunks of shape (some draws, documents); each row sums to `documents`.

    They depend on the number of documents, on `seed` and on `name` (the dataset) alone, so that every cell of a
    dataset, and both sides of every comparison, see the same resampled documents.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    chunk = max(1, CHUNK_BYTES // (8 * max(documents, 1)))
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        picks = generator.integers(0, documents, size=(rows, documents))
        picks += np.arange(rows)[:, None] * documents
        yield np.bincount(picks.ravel(), minlength=rows * documents).reshape(rows, documents).astype(np.float64)


def bootstrap_means(sums: np.ndarray, sizes: np.ndarray, draws: int, seed: int, name: str = "") -> np.ndarray:
    """`mean` of every cell under each resample of the documents, shape (draws, cells)."""
    chunks = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for counts in resamples(sums.shape[1], draws, seed, name):
            chunks.append((counts @ sums.T) / (counts @ sizes.T))
    return np.concatenate(chunks) if chunks else np.empty((0, len(sums)))


def interval(samples: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis: (lower, upper), each shaped as one sample.

    Draws that are not numbers (no document of a cell was drawn) are left out; without any draw the interval is not a
    number.

    Raises:
        ValueError: confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}; change it in the config")
    tail = (1 - confidence) / 2
    usable = np.isfinite(samples).any(axis=0)
    filled = np.where(usable, samples, 0.0) if len(samples) else np.zeros((1, *samples.shape[1:]))
    lower, upper = np.nanquantile(filled, [tail, 1 - tail], axis=0)
    return np.where(usable, lower, np.nan), np.where(usable, upper, np.nan)
