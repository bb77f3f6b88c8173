"""evaluate_loss: against transformers' own loss, and the cells that are refused."""

from types import SimpleNamespace

import numpy as np
import polars
import pytest
import torch
from transformers import AutoModelForCausalLM

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


def test_a_model_that_reads_less_than_a_window_is_a_refused_cell(tmp_path):
    (tmp_path / "config.json").write_text('{"n_positions": 8}')
    manifests.write(tmp_path / "manifest.json", {"status": "ok", "revision": "a"})
    place = str(tmp_path / "loss.parquet")
    asked = SimpleNamespace(
        input=SimpleNamespace(manifest=tmp_path / "manifest.json", weights=tmp_path),
        params=SimpleNamespace(threads=torch.get_num_threads(), device="cpu", window=16, dtype="float32"),
        wildcards={"corpus": "text"},
        output=[place],
    )
    main(asked)
    metadata = polars.read_parquet_metadata(place)
    assert (metadata["status"], polars.read_parquet(place).height) == ("refused", 0)
    assert metadata["reason"] == "the model reads 8 tokens at most (`n_positions`), and the windows have 16"


@pytest.mark.parametrize(("asked", "read"), [("all", None), (3, 3)])
def test_all_windows_of_a_split_can_be_asked_for(tmp_path, tiny_model, token_stream, asked, read):
    tokens = len(np.load(token_stream))
    manifests.write(tmp_path / "tokens.json", {"vocabulary": 64})
    manifests.write(tmp_path / "manifest.json", {"status": "ok", "revision": "a"})
    settings = {"window": 32, "windows": asked, "batch_size": 8, "dtype": "float32", "device": "cpu"}
    job = SimpleNamespace(
        input=SimpleNamespace(
            manifest=tmp_path / "manifest.json",
            weights=tiny_model,
            validation=(tmp_path / "tokens.json", token_stream, tmp_path / "stream-documents.parquet"),
            get=lambda name: None,
        ),
        params=SimpleNamespace(threads=torch.get_num_threads(), **settings),
        wildcards={"corpus": "text"},
        output=[str(tmp_path / "loss.parquet")],
    )
    main(job)
    assert polars.read_parquet(job.output[0])["window"].n_unique() == (read or tokens // 32)
