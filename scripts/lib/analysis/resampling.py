"""Bootstrap: documents drawn again with replacement.

Percentile intervals of such draws cover less than they say (tests/simulation.md); intervals are made by
scripts/lib/analysis/intervals.py. Arrays have shape (cells, documents), where a document that a cell did not see has
size 0.
"""

import zlib
from collections.abc import Iterator

import numpy as np

CHUNK_BYTES = 64_000_000


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
    """Weighted mean of every cell under each resample of the documents, shape (draws, cells)."""
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
