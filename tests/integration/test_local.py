"""A user's own checkpoints, one of them broken: good ones are measured, the bad one is listed, the report renders."""

import shutil

import polars
import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.tools import measurements, planned, snakemake


@pytest.mark.full
def test_own_checkpoints_with_a_broken_one(finished, tree, tmp_path):
    good, bad = tmp_path / "run/100", tmp_path / "run/200"
    shutil.copytree(finished / "resources/checkpoints/smoke/step-20/model", good)
    shutil.copytree(finished / "resources/checkpoints/smoke/step-40/model", bad)
    weights = load_file(bad / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    checkpoints = [
        {"path": str(good), "step": 100, "tokens": 1000, "learning_rate": 1e-3, "phase": "stable"},
        {"path": str(bad), "step": 200, "tokens": 2000, "learning_rate": 5e-4, "phase": "decay"},
    ]
    own = {"source": "local", "checkpoints": checkpoints}
    (tree / "config/trajectories/own.yaml").write_text(yaml.safe_dump(own))
    smoke = yaml.safe_load((tree / "config/studies/smoke.yaml").read_text())
    cells = [{"trajectories": ["own"], "methods": ["rtn-w3-g32"], "loss": ["smoke"], "tasks": ["smoke"]}]
    study = smoke | {"study": {"name": "own", "title": "My run", "cells": cells}}
    (tree / "config/studies/own.yaml").write_text(yaml.safe_dump(study))

    snakemake(tree, "own")

    table = measurements(tree, "own")
    assert set(table["checkpoint"]) == {"step-100"}
    loss = table.filter(polars.col("metric") == "cross_entropy", polars.col("method") == "none")
    same = measurements(finished, "smoke").filter(
        polars.col("metric") == "cross_entropy",
        polars.col("method") == "none",
        polars.col("trajectory") == "smoke",
        polars.col("checkpoint") == "step-20",
    )
    assert loss["value"].item() == same["value"].item()
    choices = polars.read_parquet(tree / "results/tables/own/choices.parquet")
    assert choices.select("run", "checkpoint", "method").rows() == [
        ("own", "step-100", "rtn-w3-g32"),
        ("own", "step-100", "none"),
    ]
    assert choices["bytes"].is_sorted()
    assert (choices["bytes_zstd"] <= choices["bytes"]).all()
    missing = polars.read_parquet(tree / "results/tables/own/missing.parquet")
    assert set(missing["checkpoint"]) == {"step-200"}
    assert set(missing["method"]) == {"none", "rtn-w3-g32"}
    assert missing["reason"].str.contains("not finite|nan").all()
    assert "not finite" in (tree / "results/report/own.html").read_text()
    assert planned(tree, "own") == {}
