"""scripts/tokenize.py: the stream of ids and the index of its documents."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scripts import tokenize as stage
from scripts.lib.runtime import manifests
from scripts.tokenizer import tokenizer, try_out
from tests.unit import small_corpus
from tests.unit.small_corpus import NAMES, VOCABULARY, tokenize_corpus, write_corpus

TEXTS = [*small_corpus.TEXTS, "A text with <|endoftext|> in its middle.", "x"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("inputs"), TEXTS)


def run(inputs, folder, text="text.parquet"):
    manifest = tokenize_corpus(inputs, folder, text)
    return manifest, np.load(folder / "s.npy"), pl.read_parquet(folder / "s.parquet")


def test_the_stream_decodes_to_the_documents(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "BATCH", 7)
    manifest, stream, index = run(inputs, tmp_path)
    loaded = AutoTokenizer.from_pretrained(inputs / "tokenizer")
    assert stream.dtype == np.uint16
    assert index.schema == {
        "document": pl.String,
        "start": pl.Int64,
        "tokens": pl.Int64,
        "characters": pl.Int64,
        "bytes": pl.Int64,
    }
    for row, text in zip(index.iter_rows(named=True), TEXTS, strict=True):
        ids = stream[row["start"] : row["start"] + row["tokens"]].tolist()
        assert loaded.decode(ids[:-1]) == text
        assert ids.index(loaded.eos_token_id) == len(ids) - 1
        assert (row["characters"], row["bytes"]) == (len(text), len(text.encode()))
    assert index["tokens"].sum() == len(stream) == manifest["tokens"]
    assert (manifest["documents"], manifest["vocabulary"], manifest["eos"]) == (62, VOCABULARY, loaded.eos_token_id)
    assert manifest["sha256"] == manifests.sha256(tmp_path / "s.npy")
    assert NAMES.items() <= manifest.items()
    assert {path.name for path in tmp_path.iterdir()} == {"s.npy", "s.parquet", "s.json"}


@pytest.mark.parametrize("setting", ["truncation", "padding"])
def test_a_tokenizer_neither_cuts_nor_fills_documents(inputs, tmp_path, setting):
    _, expected, index = run(inputs, tmp_path)
    changed = Tokenizer.from_file(str(inputs / "tokenizer/tokenizer.json"))
    changed.enable_truncation(4) if setting == "truncation" else changed.enable_padding(length=64)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/text.parquet").symlink_to(inputs / "text.parquet")
    shutil.copytree(inputs / "tokenizer", tmp_path / "in/tokenizer")
    changed.save(str(tmp_path / "in/tokenizer/tokenizer.json"))
    _, stream, again = run(tmp_path / "in", tmp_path)
    assert np.array_equal(stream, expected)
    assert again.equals(index)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "in/tokenizer")  # as the harness of tasks encodes
    assert loaded(TEXTS[0]).input_ids == stream[: index["tokens"][0] - 1].tolist()


def test_a_tokenizer_that_is_taken_draws_nothing(inputs, tmp_path):
    shutil.copytree(inputs / "tokenizer", tmp_path / "drawn")
    content = json.loads((inputs / "tokenizer/tokenizer.json").read_text())
    content["model"]["dropout"] = 0.5
    (tmp_path / "drawn/tokenizer.json").write_text(json.dumps(content))
    places = str(tmp_path / "tokenizer"), str(tmp_path / "manifest.json")
    tokenizer({"source": "model", "path": str(tmp_path / "drawn")}, "drawn", None, *places)
    encoded = [AutoTokenizer.from_pretrained(folder)(TEXTS).input_ids for folder in (inputs / "tokenizer", places[0])]
    assert encoded[0] == encoded[1]


def test_a_document_that_makes_a_tokenizer_panic_is_told(inputs, tmp_path):
    """By what its trial cannot meet: it takes endless ways to read what stands behind a rare word."""
    (tmp_path / "in").mkdir()
    shutil.copytree(inputs / "tokenizer", tmp_path / "in/tokenizer")
    content = json.loads((inputs / "tokenizer/tokenizer.json").read_text())
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "rare(x+x+)+y"}, "content": ""}
    (tmp_path / "in/tokenizer/tokenizer.json").write_text(json.dumps(content))
    try_out(tmp_path / "in/tokenizer")
    pl.DataFrame({"document": ["0"], "text": ["rare" + "x" * 1000]}).write_parquet(tmp_path / "in/text.parquet")
    with pytest.raises(ValueError, match=r"^the tokenizer \S+/tokenizer fails on a document of \S+parquet: Panic"):
        run(tmp_path / "in", tmp_path)


def test_a_tokenizer_that_makes_a_token_of_a_document_is_told(tmp_path):
    """It may do so for these texts only; of other ones, such as its trial has, it makes more."""
    whole = Tokenizer(models.WordLevel({"w0": 0, "w1": 1}, "w0"))
    (tmp_path / "in").mkdir()
    PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="w1").save_pretrained(tmp_path / "in/tokenizer")
    texts = {"document": ["0", "1"], "text": ["a page of text " * 200] * 2}
    pl.DataFrame(texts).write_parquet(tmp_path / "in/text.parquet")
    told = r"^the tokenizer \S+ does not fit \S+text\.parquet: it makes 2 tokens of 6000 bytes of text, and one"
    with pytest.raises(ValueError, match=told):
        run(tmp_path / "in", tmp_path)
    assert not (tmp_path / "s.json").exists()


def test_a_second_run_and_another_batch_size_give_equal_bytes(inputs, tmp_path, monkeypatch):
    first, _, index = run(inputs, tmp_path)
    monkeypatch.setattr(stage, "BATCH", 9)
    monkeypatch.setattr(stage, "MOST_CHARACTERS", 60)
    assert len(set(map(len, stage.within(TEXTS, 60)))) > 1
    second, _, again = run(inputs, tmp_path)
    assert first == second
    assert index.equals(again)


def test_an_empty_split_gives_an_empty_stream(inputs, tmp_path):
    pl.DataFrame(schema={"document": pl.String, "text": pl.String}).write_parquet(inputs / "empty.parquet")
    manifest, stream, index = run(inputs, tmp_path, "empty.parquet")
    assert (manifest["documents"], manifest["tokens"], len(stream), index.height) == (0, 0, 0, 0)
    assert stream.dtype == np.uint16


def test_a_large_vocabulary_needs_four_bytes_an_id(tmp_path):
    words = {f"w{number}": number for number in range(2**16)}
    large = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), eos_token="w1")
    (tmp_path / "in").mkdir()
    large.save_pretrained(tmp_path / "in/tokenizer")
    pl.DataFrame({"document": ["0"], "text": ["w65535"]}).write_parquet(tmp_path / "in/text.parquet")
    _, stream, _ = run(tmp_path / "in", tmp_path)
    assert stream.dtype == np.uint32
    assert stream.tolist() == [65535, 1]


def test_a_vocabulary_with_gaps_is_as_wide_as_its_largest_id(tmp_path):
    words = {"w0": 0, "w1": 1, "big": 70_000}
    gaps = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w0")), eos_token="w1")
    (tmp_path / "in").mkdir()
    gaps.save_pretrained(tmp_path / "in/tokenizer")
    pl.DataFrame({"document": ["0"], "text": ["big"]}).write_parquet(tmp_path / "in/text.parquet")
    manifest, stream, _ = run(tmp_path / "in", tmp_path)
    assert stream.tolist() == [70_000, 1]
    assert manifest["vocabulary"] == 3
