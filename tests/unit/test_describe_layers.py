"""describe_layers: against the same statistics of all inputs at once."""

from types import SimpleNamespace

import numpy as np
import polars
import pytest
import torch

from scripts.describe_layers import SCHEMA, described, main
from scripts.lib.checks.layer_statistics import Inputs, describe_weight
from scripts.lib.data.windows import load_windows
from scripts.lib.models.loading import block_linears, load_dense
from scripts.lib.runtime import manifests


def test_statistics_are_those_of_all_inputs_at_once(tiny_model, token_stream):
    windows = load_windows(token_stream, 32, 5)
    rows = {row["layer"]: row for row in described(tiny_model, windows, 2, "cpu")}
    model, seen = load_dense(tiny_model), {}
    layers = block_linears(model)
    for name, layer in layers.items():
        layer.register_forward_hook(lambda _, given, out, name=name: seen.update({name: given[0].flatten(0, -2)}))
    model(input_ids=torch.from_numpy(windows.astype(np.int64)))
    assert list(rows) == list(layers)
    for name, row in rows.items():
        inputs = seen[name].double()
        deviation = inputs.std(correction=0)
        singular = torch.linalg.svdvals(inputs)
        expected = {
            "input_norm": inputs.square().mean().sqrt(),
            "input_kurtosis": ((inputs - inputs.mean()) / deviation).pow(4).mean(),
            "input_largest": inputs.abs().max() / deviation,
            "input_stable_rank": singular.square().sum() / singular[0] ** 2,
        }
        assert {key: row[key] for key in expected} == pytest.approx({k: float(v) for k, v in expected.items()}, 1e-4)
        singular = torch.linalg.svdvals(layers[name].weight.double())
        assert row["weight_stable_rank"] == pytest.approx(float(singular.square().sum() / singular[0] ** 2), rel=1e-6)


def test_outlier_channels_are_counted():
    rows, inputs = torch.randn(100, 64, generator=torch.Generator().manual_seed(0)), Inputs(64, torch.device("cpu"))
    rows[:, :2] *= 1000
    inputs.add(None, (rows,), None)
    assert inputs.describe()["input_outlier_channels"] == 2 / 64


def test_a_weight_of_one_direction_has_rank_one():
    found = describe_weight(torch.outer(torch.arange(1.0, 5), torch.arange(1.0, 9)))
    assert found["weight_stable_rank"] == pytest.approx(1)
    assert found["weight_norm"] == pytest.approx((30 * 204) ** 0.5)


def test_a_checkpoints_table(tiny_model, token_stream, tmp_path):
    def run(status: str):
        manifests.write(tmp_path / "manifest.json", {"status": status, "revision": "a", "reason": "broken"})
        settings = {"window": 16, "evaluated": 40, "windows": 4, "batch_size": 2, "device": "cpu"}
        asked = SimpleNamespace(
            input=SimpleNamespace(
                manifest=tmp_path / "manifest.json", weights=tiny_model, validation=["", token_stream, ""]
            ),
            params=SimpleNamespace(threads=torch.get_num_threads(), **settings),
            wildcards={"trajectory": "a", "checkpoint": "step-1", "corpus": "text"},
            output=[str(tmp_path / "layers.parquet")],
        )
        main(asked)
        return polars.read_parquet_metadata(asked.output[0]), polars.read_parquet(asked.output[0])

    manifests.write(tmp_path / "manifest.json", {})
    _, table = run("ok")
    assert dict(table.schema) == SCHEMA
    assert table.height == len(block_linears(load_dense(tiny_model)))
    assert not table.null_count().sum_horizontal().item()
    metadata, table = run("refused")
    assert (metadata["status"], metadata["reason"], table.height) == ("refused", "broken", 0)
