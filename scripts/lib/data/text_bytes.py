"""Bytes of text that tokens stand for, so that a loss can be given in bits per byte."""

import re
from pathlib import Path

import numpy as np
import polars as pl

BYTE = re.compile("<0x[0-9A-F]{2}>")  # a token of a single byte, as SentencePiece writes it


def token_sizes(tokenizer) -> np.ndarray:
    """Bytes of text that each id of a Hugging Face tokenizer stands for: (largest id + 1,), float64.

    Exact for vocabularies of bytes, in which a character of a token stands for a byte, and for those of SentencePiece,
    where U+2581 is a space; 0 for the end-of-text token. Others drop blanks or mark the insides of words: theirs are
    about right.
    """
    added, decoder = tokenizer.get_added_vocab(), tokenizer.backend_tokenizer.decoder
    of_bytes = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()
    vocabulary = tokenizer.get_vocab()
    sizes = np.zeros(max(vocabulary.values()) + 1)
    for token, number in vocabulary.items():
        if of_bytes and token not in added:
            sizes[number] = len(token)
        else:
            sizes[number] = 1 if BYTE.fullmatch(token) else len(token.replace("\u2581", " ").encode())
    sizes[tokenizer.eos_token_id] = 0
    return sizes


def segment_bytes(
    parts: pl.DataFrame, window: int, tokens: Path | str, documents: Path | str, sizes: np.ndarray
) -> np.ndarray:
    """Bytes of text of every segment of windows, (segments,).

    A document's bytes are those of its index. Of a document that is cut, by windows whose first tokens are not
    predicted or by the end of what is evaluated, a segment has the share that its tokens have of the sizes of all the
    document's tokens: just its own bytes where the vocabulary tells the bytes of a token.

    Args:
        parts: window, first, last, from `windows.segments`.
        window: tokens a window.
        tokens, documents: the corpus's stream of token ids and its index (start, tokens, bytes).
        sizes: from `token_sizes`.
    """
    index = pl.read_parquet(documents, columns=["start", "tokens", "bytes"])
    start, count, size = (index[name].to_numpy() for name in index.columns)
    first, last = (parts["window"].to_numpy().astype(np.int64) * window + parts[side] for side in ("first", "last"))
    document = np.searchsorted(start, first, side="right") - 1
    start, end = start[document], start[document] + count[document]
    stream = np.load(tokens, mmap_mode="r")[: end.max(initial=0)]
    running = np.concatenate([[0.0], np.cumsum(sizes[stream])])
    whole = running[end] - running[start]
    return size[document] * (running[last] - running[first]) / np.where(whole > 0, whole, 1.0)
