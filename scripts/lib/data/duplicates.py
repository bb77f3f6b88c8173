"""Repeated text: documents that repeat longer ones, and how much of one text another holds."""

import re
from array import array

import numpy as np
import polars as pl

DUPLICATE_WORDS = 5
OVERLAP_WORDS = 13


def near_duplicates(texts: pl.Series, share: float) -> np.ndarray:
    """Which documents [n] repeat longer ones: at least `share` of their word 5-shingles occur in longer documents.

    Of two documents of one length the later one counts as the shorter. Exact, not sampled; needs some 50 bytes of
    memory a word of the corpus.
    """
    hashes, document = shingles(texts, DUPLICATE_WORDS)
    counts = np.bincount(document, minlength=len(texts))
    rank = np.empty(len(texts), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(texts))
    order = np.lexsort((rank[document], hashes))
    ordered, ranks = hashes[order], rank[document][order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    longest = np.repeat(ranks[starts], np.diff(np.r_[starts, len(ordered)]))
    seen = np.bincount(document[order], weights=longest < ranks, minlength=len(texts))
    return seen >= share * counts


def overlap(train: pl.Series, *others: pl.Series) -> list[float]:
    """Share, in [0, 1], of the 13-word shingles of each of `others` that occur in `train`; 0 where there are none."""
    vocabulary = {}
    known = np.unique(shingles(train, OVERLAP_WORDS, vocabulary)[0])
    runs = [shingles(texts, OVERLAP_WORDS, vocabulary)[0] for texts in others]
    return [round(float(np.isin(hashes, known).mean()), 6) if len(hashes) else 0.0 for hashes in runs]


def shingles(texts: pl.Series, words: int, vocabulary: dict[str, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """64-bit hashes of all runs of `words` words (lower case, no punctuation), and the document index of each.

    A document with fewer words has one shingle, the whole. Words are numbered by `vocabulary`, which grows; texts that
    are to be compared must share it.

    Returns:
        hashes uint64 [m], document int64 [m], non-decreasing.
    """
    vocabulary = {} if vocabulary is None else vocabulary
    numbers, lengths = array("I"), []
    for text in texts:
        found = re.findall(r"\w+", text.lower()) or [""]
        found += [""] * (words - len(found))
        numbers.extend(vocabulary.setdefault(word, len(vocabulary)) for word in found)
        lengths.append(len(found))
    lengths = np.asarray(lengths, dtype=np.int64)
    mixed = mix(np.frombuffer(numbers, dtype=np.uint32).astype(np.uint64))
    count = len(mixed) - words + 1
    hashes = np.zeros(max(count, 0), dtype=np.uint64)
    for offset in range(words):
        hashes = mix(hashes + mixed[offset : offset + count])
    document = np.repeat(np.arange(len(lengths)), lengths)
    inside = document[: len(hashes)] == document[words - 1 :]
    return hashes[inside], document[: len(hashes)][inside]


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014), elementwise on uint64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
