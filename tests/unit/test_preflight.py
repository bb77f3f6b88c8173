"""Preflight: cells that cannot work are set aside; sources and folders that are not there are named before work."""

import json
import re
import shutil

import pytest
import yaml
from safetensors.torch import save_file
from snakemake.utils import update_config
from torch import zeros

from scripts.lib.runtime.config_files import ConfigError, read_yaml
from scripts.lib.study.plan import BASELINE, make_plan
from scripts.lib.study.preflight import describe_refused, require_folders, require_sources


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree("config", tmp_path / "config")


def plan(folder, *methods, trajectories=("smoke",)):
    config = read_yaml("config/default.yaml")
    update_config(config, read_yaml("config/studies/smoke.yaml"))
    cells = {"trajectories": list(trajectories), "methods": list(methods), "loss": ["smoke"]}
    config["study"] = {"name": "made-up", "title": "made up", "cells": [cells]}
    return make_plan(config, folder)


def methods_of(cells):
    return {cell.method for cell in cells}


def test_a_published_model_of_width_576_cannot_have_groups_of_128(folder):
    found = plan(folder, "rtn-w4-g128", "rtn-w4-g64", "rtn-w4-channel", "q4_k_m", trajectories=("smollm2-135m",))
    assert methods_of(found.refused) == {"rtn-w4-g128", "q4_k_m"}
    assert methods_of(found.cells) == methods_of(found.tasks) == {BASELINE, "rtn-w4-g64", "rtn-w4-channel"}
    reasons = set(found.refused.values())
    assert "group_size 128 does not divide the width 576 of hidden_size" in reasons
    assert "K-quants: widths must be multiples of 256, and hidden_size has 576" in reasons
    points = len(found.checkpoints)
    assert describe_refused(found)[1] == (
        f"{points} cells of `smollm2-135m` are not run: group_size 128 does not divide the width 576 of hidden_size"
    )


def test_a_trained_run_knows_the_width_of_its_mlp_and_its_average_is_as_wide(folder):
    run = read_yaml(folder / "trajectories/smoke.yaml")
    run["model"] |= {"hidden_size": 128, "intermediate_size": 160}
    (folder / "trajectories/smoke.yaml").write_text(yaml.safe_dump(run))
    found = plan(folder, "rtn-w4-g64", "rtn-w4-g32", trajectories=("smoke", "smoke-lawa"))
    assert {cell.trajectory for cell in found.refused} == {"smoke", "smoke-lawa"}
    assert methods_of(found.refused) == {"rtn-w4-g64"}
    assert set(found.refused.values()) == {"group_size 64 does not divide the width 160 of intermediate_size"}


def test_a_local_model_is_known_by_its_config(folder, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 48, "vocab_size": 8}))
    save_file({"a": zeros(2)}, model / "model.safetensors")
    checkpoint = {"path": str(model), "step": 1, "tokens": 1, "learning_rate": 0.1, "phase": "stable"}
    run = {"source": "local", "checkpoints": [checkpoint]}
    (folder / "trajectories/own.yaml").write_text(yaml.safe_dump(run))
    found = plan(folder, "rtn-w4-g32", "gptq-w3-g16", trajectories=("own",))
    assert methods_of(found.refused) == {"rtn-w4-g32"}
    assert methods_of(found.cells) == {BASELINE, "gptq-w3-g16"}


def test_one_cell_that_is_not_run_is_one_cell(folder):
    found = plan(folder, "rtn-w4-g64")
    one, *_ = sorted(found.refused)
    found.refused = {one: "too wide"}
    assert describe_refused(found) == ["1 cell of `smoke` is not run: too wide"]


def test_nothing_is_refused_of_what_fits(folder):
    assert not plan(folder, "rtn-w3-g32", "nf4").refused


def test_every_glob_that_matches_nothing_is_named_until_the_corpus_is_made(folder, tmp_path):
    found = plan(folder, "rtn-w3-g32")
    found.config["folders"] = {"resources": str(tmp_path / "resources"), "results": str(tmp_path / "results")}
    paths = [f"{tmp_path}/texts/**/*.txt", f"{tmp_path}/*.jsonl"]
    fractions = {"validation": 0.1, "calibration": 0.1}
    found.corpora["smoke"] = definition = {"source": "files", "paths": paths, "fractions": fractions}
    with pytest.raises(ConfigError) as caught:
        require_sources(found)
    assert [f"corpus `smoke`: no file matches {path}" in str(caught.value) for path in paths] == [True, True]
    (tmp_path / "texts/deep").mkdir(parents=True)
    (tmp_path / "texts/deep/a.txt").write_text("text")
    with pytest.raises(ConfigError, match=r"^corpus `smoke`: no file matches \S+jsonl\n.*mend"):
        require_sources(found)
    made = tmp_path / "resources/corpora/smoke/manifest.json"
    made.parent.mkdir(parents=True)
    splits = {split: {"documents": 9, "characters": 9999} for split in ("train", "validation", "calibration")}
    made.write_text(json.dumps({"definition": definition, "splits": splits}))
    require_sources(found)
    made.write_text(json.dumps({"definition": definition | {"documents": 9}, "splits": splits}))
    with pytest.raises(ConfigError, match=r"^corpus `smoke`: no file matches \S+jsonl\n"):
        require_sources(found)


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path):
    found = plan(folder, "rtn-w3-g32")
    found.config["folders"] = {"resources": str(tmp_path / "new/resources"), "results": str(tmp_path / "file/results")}
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=re.escape(f"folders.results: {tmp_path}/file/results: {tmp_path}/file is a")):
        require_folders(found)
    (tmp_path / "file").unlink()
    require_folders(found)
    assert not (tmp_path / "new").exists()
