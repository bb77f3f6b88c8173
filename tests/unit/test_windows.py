"""windows.py and duplicates.py: windows, the documents in them, and repeated text."""

import numpy as np
import polars as pl
import pytest

from scripts.lib.data import duplicates
from scripts.lib.data.windows import OWN_TEXT, draw_windows, load_windows, segments, text_seed


def write_index(path, lengths):
    starts = np.cumsum([0, *lengths[:-1]])
    names = [f"d{number}" for number in range(len(lengths))]
    pl.DataFrame({"document": names, "start": starts, "tokens": np.asarray(lengths, dtype=np.int64)}).write_parquet(
        path
    )


def slow_segments(lengths, window, windows):
    """What `segments` gives, token by token."""
    owners = [number for number, length in enumerate(lengths) for _ in range(length)]
    rows = {}
    for position, owner in enumerate(owners[: windows * window]):
        place = position % window
        if place:
            first, _ = rows.get((position // window, owner), (place, place))
            rows[position // window, owner] = (first, place + 1)
    return [(number, f"d{owner}", first, last) for (number, owner), (first, last) in rows.items()]


def test_windows_follow_one_another_and_drop_the_tail(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.arange(23, dtype=np.uint16))
    windows = load_windows(path, 5)
    assert windows.tolist() == np.arange(20).reshape(4, 5).tolist()
    assert isinstance(windows.base, np.memmap) or isinstance(windows, np.memmap)
    assert load_windows(path, 5, limit=2).shape == (2, 5)
    assert load_windows(path, 5, limit=99).shape == (4, 5)


def test_a_corpus_smaller_than_one_window_is_named(tmp_path):
    path = tmp_path / "small-validation.npy"
    np.save(path, np.arange(4, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"small-validation\.npy has 4 tokens, not one whole window of 5"):
        load_windows(path, 5)
    with pytest.raises(ValueError, match="at least 2"):
        load_windows(path, 1)


@pytest.mark.parametrize("seed", range(40))
def test_segments_equal_a_loop_over_tokens(tmp_path, seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 12, size=random.integers(1, 15)).tolist()
    window = int(random.integers(2, 9))
    windows = int(random.integers(0, sum(lengths) // window + 1))
    path = tmp_path / "documents.parquet"
    write_index(path, lengths)
    found = segments(path, window, windows)
    assert found.rows() == slow_segments(lengths, window, windows)
    assert found.schema == {"window": pl.Int32, "document": pl.String, "first": pl.Int32, "last": pl.Int32}
    assert (found["last"] - found["first"]).sum() == windows * (window - 1)


def test_each_draw_and_each_run_has_a_text_of_its_own(token_stream):
    runs, draws = (None, OWN_TEXT, 0, 2, 3), (1, 2, 3)
    texts = {}
    for run in runs:
        for draw in draws:
            drawn = draw_windows(token_stream, {"samples": 8, "window": 16, "seed": text_seed(5, draw, run)})
            texts[run, draw] = drawn.tobytes()
    assert len(set(texts.values())) == (len(runs) - 1) * len(draws)
    assert all(texts[None, draw] == texts[OWN_TEXT, draw] for draw in draws)


@pytest.mark.parametrize("run", [None, OWN_TEXT])
def test_the_first_draw_is_the_text_that_the_seed_alone_always_gave(token_stream, run):
    windows = load_windows(token_stream, 16)
    before = windows[np.sort(np.random.default_rng(5).choice(len(windows), 8, replace=False))]
    drawn = draw_windows(token_stream, {"samples": 8, "window": 16, "seed": text_seed(5, 1, run)})
    assert np.array_equal(drawn, before)


def test_a_document_at_position_0_alone_has_no_row(tmp_path):
    path = tmp_path / "documents.parquet"
    write_index(path, [5, 3])
    assert segments(path, 4, 2).rows() == [(0, "d0", 1, 4), (1, "d1", 1, 4)]


def test_a_text_within_longer_texts_is_a_near_duplicate():
    long = " ".join(f"word{number}" for number in range(60))
    part = "Word7, " + " ".join(f"word{number}" for number in range(8, 30))
    other = " ".join(f"other{number}" for number in range(20))
    half = " ".join([f"word{number}" for number in range(14)] + [f"new{number}" for number in range(14)])
    texts = pl.Series([part, other, long, half, other])
    assert duplicates.near_duplicates(texts, 0.5).tolist() == [True, False, False, False, True]
    assert duplicates.near_duplicates(texts, 0.4).tolist() == [True, False, False, True, True]


def test_shingles_stay_within_documents():
    hashes, document = duplicates.shingles(pl.Series(["a b c d", "b c d", "x", ""]), 3)
    assert document.tolist() == [0, 0, 1, 2, 3]
    assert hashes[1] == hashes[2]
    assert len(set(hashes.tolist())) == 4


def test_overlap_counts_the_runs_found_in_train():
    words = [f"w{number}" for number in range(40)]
    train = pl.Series([" ".join(words[:26])])
    half = pl.Series([" ".join(words[13:39])])
    none = pl.Series([], dtype=pl.String)
    assert duplicates.overlap(train, train, half, none) == [1.0, round(1 / 14, 6), 0.0]
