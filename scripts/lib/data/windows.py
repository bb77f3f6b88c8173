"""Windows of tokens, and the documents that their predicted tokens belong to."""

from pathlib import Path

import numpy as np
import polars as pl

from scripts.lib.runtime.shortages import Refused

OWN_TEXT = 1  # seed of the runs whose models are calibrated on the text of the recipe's own seed


class TooFew(Refused, ValueError):
    """A text, as its tokenizer encodes it, has fewer windows than are asked for: this cell is refused."""


def load_windows(tokens_path: Path | str, window: int, limit: int | None = None) -> np.ndarray:
    """The non-overlapping windows of a token stream, from its start; the tail that fills no window is dropped.

    Args:
        tokens_path: a corpus's `.npy` stream of token ids.
        window: tokens a window, at least 2 (all but its first are predicted).
        limit: at most so many windows; fewer are fine.

    Returns:
        Token ids [n, window], read from disk when they are used.

    Raises:
        TooFew: the corpus has not one whole window.
        ValueError: a window of less than 2.
    """
    if window < 2:
        raise ValueError(f"a window of {window} tokens predicts nothing; use at least 2")
    stream = np.load(tokens_path, mmap_mode="r")
    count = len(stream) // window
    if count == 0:
        raise TooFew(
            f"{tokens_path} has {len(stream)} tokens, not one whole window of {window}; "
            f"use a shorter window or a larger corpus"
        )
    count = count if limit is None else min(count, limit)
    return stream[: count * window].reshape(count, window)


def draw_windows(tokens: Path, settings: dict) -> np.ndarray:
    """Windows of a token stream: [samples, window], drawn without replacement by the seed, a number or several.

    Raises:
        TooFew: the split has fewer windows than are asked for.
    """
    windows = load_windows(tokens, settings["window"])
    if len(windows) < settings["samples"]:
        raise TooFew(
            f"{tokens} has {len(windows)} windows of {settings['window']} tokens, {settings['samples']} are asked "
            "for: lower `samples` or give the corpus a larger calibration share"
        )
    chosen = np.random.default_rng(settings["seed"]).choice(len(windows), settings["samples"], replace=False)
    return np.asarray(windows[np.sort(chosen)])


def text_seed(seed: int, draw: int, run_seed: int | None) -> list[int]:
    """Seed of the windows that the models of one run are calibrated on, in one draw.

    The first draw, for runs of seed OWN_TEXT and for models that were not trained here, is the recipe's seed alone.

    Args:
        seed: of the recipe.
        draw: from 1.
        run_seed: of the training that the model descends from; None if it was not trained here.
    """
    run_seed = OWN_TEXT if run_seed is None else run_seed
    return [seed] if (draw, run_seed) == (1, OWN_TEXT) else [seed, draw, run_seed]


def segments(documents_path: Path | str, window: int, windows: int) -> pl.DataFrame:
    """Which positions of which window belong to which document, for the first `windows` windows of a corpus.

    The token at position p, 1 <= p < window, is predicted from those before it in its window; position 0 is not
    predicted, and a document that has nothing else in a window has no row there.

    Args:
        documents_path: a corpus's document index (document, start, tokens).
        window: tokens a window.
        windows: number of windows.

    Returns:
        window int32, document str, first int32, last int32, ordered by window and first: positions first <= p < last.
    """
    index = pl.read_parquet(documents_path, columns=["document", "start", "tokens"])
    start = index["start"].to_numpy()
    end = np.minimum(start + index["tokens"].to_numpy(), windows * window)
    inside = np.flatnonzero(start < end)
    start, end = start[inside], end[inside]
    first_window = start // window
    pieces = (end - 1) // window - first_window + 1
    document = np.repeat(np.arange(len(inside)), pieces)
    piece = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    number = first_window[document] + piece
    first = np.maximum(start[document] - number * window, 1)
    last = np.minimum(end[document] - number * window, window)
    kept = first < last
    return pl.DataFrame(
        {
            "window": number[kept].astype(np.int32),
            "document": index["document"].gather(inside[document[kept]]),
            "first": first[kept].astype(np.int32),
            "last": last[kept].astype(np.int32),
        }
    )
