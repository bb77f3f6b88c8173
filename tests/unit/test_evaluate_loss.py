"""evaluate_loss: against transformers' own loss, and the cells that are refused."""

import errno
import json
import shutil
from types import SimpleNamespace

import numpy as np
import polars
import pytest
import torch
from transformers import AutoModelForCausalLM

from scripts import evaluate_loss as stage
from scripts.evaluate_loss import SCHEMA, by_segment, divergence, evaluate_loss, main, refusal
from scripts.lib.data.windows import load_windows, segments
from scripts.lib.runtime import manifests


def test_equals_the_models_own_loss(tiny_model, token_stream):
    windows = load_windows(token_stream, 32, 5)
    nll, kl, agree = evaluate_loss(tiny_model, None, windows, batch_size=2, dtype="float32", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.from_numpy(windows.astype(np.int64))
    assert nll.shape == (5, 31)
    assert nll.mean() == pytest.approx(float(model(input_ids=ids, labels=ids).loss), rel=1e-6)
    assert not kl.any()
    assert agree.all()


def test_a_model_does_not_diverge_from_itself(tiny_model, token_stream):
    windows = load_windows(token_stream, 32, 4)
    _, kl, agree = evaluate_loss(tiny_model, tiny_model, windows, batch_size=4, dtype="float32", device="cpu")
    assert np.abs(kl).max() < 1e-6
    assert agree.all()


def test_divergence_equals_torchs():
    draw = torch.Generator().manual_seed(0)
    reference, logits = torch.randn(2, 3, 50, generator=draw), torch.randn(2, 3, 50, generator=draw)
    expected = torch.nn.functional.kl_div(
        logits.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    assert torch.allclose(divergence(reference, logits, logits.logsumexp(-1)), expected, atol=1e-5)


def test_batch_size_does_not_matter(tiny_model, token_stream):
    windows = load_windows(token_stream, 32, 6)
    one = evaluate_loss(tiny_model, None, windows, batch_size=1, dtype="float32", device="cpu")[0]
    many = evaluate_loss(tiny_model, None, windows, batch_size=4, dtype="float32", device="cpu")[0]
    assert np.allclose(one, many, rtol=1e-4)


def test_segments_add_up(token_stream):
    windows = load_windows(token_stream, 32, 20)
    parts = segments(token_stream.with_name("stream-documents.parquet"), 32, 20).with_columns(bytes=polars.lit(4.0))
    nll = np.random.default_rng(1).random((20, 31))
    table = by_segment(parts, nll, 2 * nll, nll > 0.5)
    assert dict(table.schema) == SCHEMA
    assert table["tokens"].sum() == windows.size - 20
    assert table["nll"].sum() == pytest.approx(nll.sum())
    assert table["kl"].sum() == pytest.approx(2 * nll.sum())
    assert table["agree"].sum() == (nll > 0.5).sum()
    first = table.filter(polars.col("window") == 0)
    assert first["nll"].sum() == pytest.approx(nll[0].sum())


@pytest.mark.parametrize("value", [np.nan, np.inf, 100.0])
def test_broken_losses_are_refused(value):
    nll = np.full((2, 3), 2.0)
    assert refusal(nll, vocabulary=64) is None
    nll[:] = value
    assert refusal(nll, vocabulary=64) is not None


@pytest.fixture
def cell(tmp_path, token_stream):
    """A function that evaluates a model as its rule does, and gives the metadata and the rows of its table."""

    def run(model, window=16, windows=2):
        manifests.write(tmp_path / "manifest.json", {"status": "ok", "revision": "a"})
        manifests.write(tmp_path / "tokens.json", {"vocabulary": 64})
        files = [tmp_path / "tokens.json", token_stream, token_stream.with_name("stream-documents.parquet")]
        settings = {"windows": windows, "batch_size": 2, "dtype": "float32", "device": "cpu"}
        asked = SimpleNamespace(
            input=Input(manifest=tmp_path / "manifest.json", weights=model, validation=files, tokenizer=model),
            params=SimpleNamespace(threads=torch.get_num_threads(), window=window, hidden="", **settings),
            wildcards={"corpus": "text"},
            output=[str(tmp_path / "loss.parquet")],
        )
        main(asked)
        return polars.read_parquet_metadata(asked.output[0]), polars.read_parquet(asked.output[0])

    return run


class Input(SimpleNamespace):
    """As a job sees its rule's input."""

    def get(self, name):
        return getattr(self, name, None)


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("gpt2", {"n_positions": 8}, "the model reads 8 tokens at most (`max_position_embeddings`), and the"),
        ("gpt2", {}, "the model reads 1024 tokens at most (`max_position_embeddings`), and the windows have 2048"),
        ("mpt", {"max_seq_len": 8}, "the model reads 8 tokens at most (`max_seq_len`), and the windows have 2048"),
    ],
)
def test_a_model_that_reads_less_than_a_window_is_a_refused_cell(cell, tmp_path, kind, shape, message):
    """Also where its config.json does not say so, and transformers does."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **shape}))
    metadata, table = cell(tmp_path, window=2048)
    assert (metadata["status"], table.height) == ("refused", 0)
    assert message in metadata["reason"]


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_model_that_fails_on_a_text_is_a_refused_cell(cell, tiny_model, tmp_path, caplog):
    """Tables that hold for the short texts that models are tried out with, and not for those of a study."""
    wrong = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0] * 5, "rope_theta": 1e4}
    wrong |= {"factor": 2.0, "original_max_position_embeddings": 9}
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_parameters": wrong}))
    metadata, table = cell(copy)
    assert (metadata["status"], table.height) == ("refused", 0)
    assert metadata["reason"].startswith("transformers fails on this model: RuntimeError: The size of tensor a")
    assert "\n" not in metadata["reason"]
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_token_without_a_row_is_a_refused_cell(cell, tiny_model, token_stream):
    np.save(token_stream, np.full(400, 64, dtype=np.uint16))
    metadata, _ = cell(tiny_model)
    assert metadata["reason"] == "transformers fails on this model: IndexError: index out of range in self"


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_text_of_less_than_a_window_is_a_refused_cell(cell, tiny_model, token_stream):
    np.save(token_stream, np.ones(15, dtype=np.uint16))
    metadata, table = cell(tiny_model)
    assert (metadata["status"], table.height) == ("refused", 0)
    assert "has 15 tokens, not one whole window of 16; use a shorter window" in metadata["reason"]


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize(
    "error", [MemoryError(), torch.AcceleratorError("CUDA error: unknown"), OSError(errno.ENOSPC, "No space left")]
)
def test_too_little_memory_fails_the_job(cell, tiny_model, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("scripts.evaluate_loss.compare", fail)
    with pytest.raises(type(error)):
        cell(tiny_model)


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize(("fitting", "status"), [(1, "ok"), (0, "refused")])
def test_a_gpu_that_is_too_small_for_a_batch(cell, tiny_model, monkeypatch, fitting, status):
    _, whole = cell(tiny_model)
    before = stage.compare

    def compare(logits, reference, ids):
        if len(ids) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory. GPU 0 has a total capacity of 79.15 GiB")
        return before(logits, reference, ids)

    monkeypatch.setattr(stage, "compare", compare)
    metadata, table = cell(tiny_model)
    assert metadata["status"] == status
    if status == "ok":
        assert table["nll"].to_numpy() == pytest.approx(whole["nll"].to_numpy(), rel=1e-6)
    else:
        assert "more memory than the GPU has" in metadata["reason"]
        assert "79.15 GiB" in metadata["reason"]


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize(("asked", "read"), [("all", None), (3, 3)])
def test_all_windows_of_a_split_can_be_asked_for(cell, tiny_model, token_stream, asked, read):
    _, table = cell(tiny_model, window=32, windows=asked)
    assert table["window"].n_unique() == (read or len(np.load(token_stream)) // 32)
