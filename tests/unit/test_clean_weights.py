"""clean-weights: the study's quantized models go, once all is measured; everything else stays."""

import os
from pathlib import Path

import pytest

from scripts.commands.clean_weights import clean
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.plan import load_plan


@pytest.fixture
def plan(tmp_path):
    """The smoke study with made-up results below a folder of its own."""
    plan = load_plan("smoke")
    plan.config["folders"] = {"resources": str(tmp_path / "resources"), "results": str(tmp_path / "results")}
    for cell in plan.cells:
        for path in (Path(table) for _, _, table in plan.evaluations(cell)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        if cell.method != "none":
            folder = tmp_path / "results/quantized" / cell.trajectory / cell.checkpoint / cell.method
            (folder / "model").mkdir(parents=True)
            (folder / "model/model.safetensors").write_bytes(b"12345")
            (folder / "manifest.json").write_text("{}")
    return plan


def test_models_go_and_manifests_stay(plan, tmp_path):
    other = tmp_path / "results/quantized/smoke/step-30/nf4/model"
    other.mkdir(parents=True)
    assert clean(plan) == (8, 40)
    assert [path for path in tmp_path.rglob("model") if path.is_dir()] == [other]
    assert len(list(tmp_path.rglob("manifest.json"))) == 8
    assert clean(plan) == (0, 0)


def test_nothing_goes_while_something_is_not_measured(plan, tmp_path):
    os.unlink(next((tmp_path / "results").rglob("tasks-smoke.parquet")))
    with pytest.raises(RuntimeError, match=r"1 evaluations are missing, such as .*tasks-smoke\.parquet: run"):
        clean(plan)
    assert len(list(tmp_path.rglob("model.safetensors"))) == 8


def test_an_unknown_study():
    with pytest.raises(ConfigError, match="there is no study `smok`; did you mean `smoke`"):
        load_plan("smok")
