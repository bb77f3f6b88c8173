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
