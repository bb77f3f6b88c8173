"""Bytes of text of segments, and bits per byte against the way in which lm-eval counts them."""

import math
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from scripts.evaluate_loss import main
from scripts.lib.analysis.intervals import mean
from scripts.lib.analysis.measures import read_loss
from scripts.lib.data.text_bytes import segment_bytes, token_sizes
from scripts.lib.data.windows import segments
from scripts.lib.runtime import manifests
from tests.unit.small_corpus import TEXTS, VOCABULARY, tokenize_corpus, write_corpus

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder with a tokenizer of bytes, and a tokenized split."""
    folder = write_corpus(tmp_path_factory.mktemp("corpus"), TEXTS)
    tokenize_corpus(folder, folder)
    return folder


def test_a_vocabulary_of_bytes_tells_the_bytes_of_every_token(corpus):
    sizes = token_sizes(AutoTokenizer.from_pretrained(corpus / "tokenizer"))
    stream, index = np.load(corpus / "s.npy"), pl.read_parquet(corpus / "s.parquet")
    for row, text in zip(index.iter_rows(named=True), TEXTS, strict=True):
        assert sizes[stream[row["start"] : row["start"] + row["tokens"]]].sum() == len(text.encode())


def test_segments_have_their_own_bytes_where_tokens_are_bytes(corpus):
    sizes = token_sizes(AutoTokenizer.from_pretrained(corpus / "tokenizer"))
    stream, window, count = np.load(corpus / "s.npy"), 16, 40
    parts = segments(corpus / "s.parquet", window, count)
    found = segment_bytes(parts, window, corpus / "s.npy", corpus / "s.parquet", sizes)
    windows = stream[: window * count].reshape(count, window)
    own = [sizes[windows[row["window"], row["first"] : row["last"]]].sum() for row in parts.iter_rows(named=True)]
    assert found == pytest.approx(own)
    assert found.sum() == pytest.approx(sizes[windows[:, 1:]].sum())


def test_other_vocabularies_share_out_the_bytes_of_the_index(tmp_path):
    """Two documents of 3 and 2 tokens and 20 and 9 bytes, whose tokens are called 1, 3 and 0 bytes."""
    np.save(tmp_path / "s.npy", np.array([0, 1, 2, 1, 2], dtype=np.uint16))
    index = {"document": ["a", "b"], "start": [0, 3], "tokens": [3, 2], "characters": [20, 9], "bytes": [20, 9]}
    pl.DataFrame(index).write_parquet(tmp_path / "s.parquet")
    parts = segments(tmp_path / "s.parquet", 5, 1)
    found = segment_bytes(parts, 5, tmp_path / "s.npy", tmp_path / "s.parquet", np.array([1.0, 3.0, 0.0]))
    assert parts.select("first", "last").rows() == [(1, 3), (3, 5)]
    assert found.tolist() == [15.0, 9.0]


def test_blanks_and_single_bytes_of_sentencepiece(tmp_path):
    backend = Tokenizer(models.BPE({"</s>": 0, "▁the": 1, "é": 2, "<0xF0>": 3, "▁▁": 5}, []))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    found = token_sizes(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>"))
    assert found.tolist() == [0, 4, 2, 1, 0, 2]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", vocab_size=VOCABULARY, max_position_embeddings=4096, **SHAPE)
    folder = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / "model")
    manifests.write(folder / "manifest.json", {"status": "ok", "revision": "a"})
    return folder


def evaluate(corpus, model, place, **params) -> pl.DataFrame:
    """The stage itself, on one window of the whole corpus."""
    window = len(np.load(corpus / "s.npy"))
    settings = {
        "window": window,
        "windows": 1,
        "batch_size": 1,
        "dtype": "float32",
        "device": "cpu",
        "hidden": "",
    } | params
    inputs = {"manifest": model / "manifest.json", "weights": model / "model", "tokenizer": corpus / "tokenizer"}
    inputs["validation"] = [corpus / "s.json", corpus / "s.npy", corpus / "s.parquet"]
    asked = SimpleNamespace(
        input=manifests_input(inputs),
        params=SimpleNamespace(threads=torch.get_num_threads(), **settings),
        wildcards={"trajectory": "run", "checkpoint": "step-1", "corpus": "small"},
        output=[str(place)],
    )
    main(asked)
    return pl.read_parquet(place)


def manifests_input(inputs: dict):
    """Inputs by attribute and by `get`, as Snakemake gives them."""
    names = SimpleNamespace(**inputs)
    names.get = inputs.get
    return names


def test_bits_per_byte_are_those_of_a_direct_calculation(corpus, model, tmp_path):
    """As lm-eval's: the summed log-likelihood over the bytes of the texts; here without the very first token."""
    table = evaluate(corpus, model, tmp_path / "loss.parquet")
    metadata = pl.read_parquet_metadata(tmp_path / "loss.parquet")
    measured = {item.metric: item for item in read_loss(table, ("run", "step-1", "none"), metadata)}
    item = measured["bits_per_byte"]
    ids = torch.from_numpy(np.load(corpus / "s.npy").astype(np.int64))[None]
    with torch.inference_mode():
        loss = AutoModelForCausalLM.from_pretrained(model / "model")(input_ids=ids, labels=ids).loss
    first = AutoTokenizer.from_pretrained(corpus / "tokenizer").decode(ids[0, :1])
    assert TEXTS[0].startswith(first)
    text = sum(len(text.encode()) for text in TEXTS) - len(first)
    assert item.sizes.sum() == text
    assert float(mean(item.sums, item.sizes)) == pytest.approx(
        float(loss) * (ids.shape[1] - 1) / text / math.log(2), rel=1e-6
    )


def test_in_half_precision_the_baselines_own_row_shows_the_floor(corpus, model, tmp_path):
    exact = evaluate(corpus, model, tmp_path / "float32.parquet")
    half = evaluate(corpus, model, tmp_path / "bfloat16.parquet", dtype="bfloat16")
    assert exact["kl"].sum() == 0
    assert 0 < half["kl"].sum() < 1e-2 * half["tokens"].sum()
    assert exact["agree"].sum() == exact["tokens"].sum() >= half["agree"].sum()
