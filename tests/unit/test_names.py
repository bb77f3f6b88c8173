"""Names: one rule for all that has one, so that none leaves its folder, is a command, a formula or HTML."""

import polars as pl
import pytest

from scripts.lib.analysis.tables import write_csv
from scripts.lib.data import suites
from scripts.lib.runtime.config_files import ConfigError, is_name, load_named, read_yaml, validate
from scripts.lib.study.recipes import load_recipe

BAD = (
    *("../../texts/t", "a/b", "$(touch x)", "<img>", "a\n", "a\nb", "", ".", ".."),
    *("-rf", "=1+1", "+1", "@a", "a b", "ä", "a" * 101),
)
BLOCK = {"trajectories": ["smoke"], "methods": ["nf4"]}


def study(name: str = "a", **block) -> dict:
    return {"name": name, "title": "any text: <b>", "cells": [BLOCK | block]}


@pytest.mark.parametrize("name", ["a", "0", "rtn-w3-g32", "pythia-1.4b", "A_b", "a" * 100])
def test_good_names(name):
    assert is_name(name)
    validate(study(name, loss=[name], tasks=[name]), "study", "study")


@pytest.mark.parametrize("name", BAD)
def test_bad_names_are_refused_wherever_there_is_one(name, tmp_path):
    run = read_yaml("config/trajectories/smoke.yaml")
    published = read_yaml("config/trajectories/pythia-14m.yaml")
    suite = {"tasks": [{"task": name, "num_fewshot": 0}], "batch_size": 1, "limit": None}
    made = [
        *((study(name), "study"), *((study(**{key: [name]}), "study") for key in ("loss", "tasks", *BLOCK))),
        ({"source": "train", "corpus": name, "vocabulary": 512}, "tokenizer"),
        *((run | {key: name}, "trajectory") for key in ("corpus", "tokenizer")),
        *((published | {key: f"owner/{name}"}, "trajectory") for key in ("repo", "tokenizer_repo")),
        *((published | {key: f"{name}/model"}, "trajectory") for key in ("repo", "tokenizer_repo")),
        (read_yaml("config/trajectories/smoke-lawa.yaml") | {"of": name}, "trajectory"),
        (read_yaml("config/trajectories/smoke-cooldown.yaml") | {"branch": {"from": name, "step": 20}}, "trajectory"),
        (suite, "suite"),
    ]
    for content, kind in made:
        with pytest.raises(ConfigError, match=r"is no (name|repository, owner/name): a name has up to 100 letters"):
            validate(content, kind, "file")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/t.yaml").write_text("source: train")
    for load in (lambda: load_named(tmp_path / "a/b", "trajectory", name), lambda: load_recipe(tmp_path / "a/b", name)):
        with pytest.raises(ConfigError, match=r"is no (trajectory|recipe): a name has"):
            load()


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset_path": "../a"},
        {"dataset_path": "a/../b"},
        {"dataset_path": "a/b/c"},
        {"dataset_path": "a/b\n"},
        {"dataset_name": ".."},
        {"dataset_name": "a/../../b"},
        {"test_split": "../test"},
        {"test_split": "test\n"},
    ],
)
def test_data_of_a_benchmark_stay_in_their_folder(tmp_path, changes):
    fields = {"dataset_path": "owner/data", "dataset_name": "all", "test_split": "test"}
    assert suites._fetched(tmp_path, fields)["dataset_kwargs"]["data_files"] == {
        "test": "datasets/owner--data/all/test/0000.parquet"
    }
    with pytest.raises(ValueError, match="say more than a data set of the hub"):
        suites._fetched(tmp_path, fields | changes)


def test_texts_that_a_spreadsheet_would_run_are_texts_in_csv(tmp_path):
    rows = {"reason": ["=cmd()", "+1", "-1", "@a", " =1", "it fails: = 1", None], "value": [-1.0, 2, -3, 4, 5, 6, 7]}
    write_csv(pl.DataFrame(rows), tmp_path / "a.csv")
    back = pl.read_csv(tmp_path / "a.csv")
    assert back["reason"].to_list() == ["'=cmd()", "'+1", "'-1", "'@a", "' =1", "it fails: = 1", None]
    assert back["value"].to_list() == rows["value"]


@pytest.mark.parametrize("sign", "=+-@＝＋－＠﹦﹢﹣﹫\u2212")
@pytest.mark.parametrize("before", ["", "\t", "\r", "\u3000", "\u200b", "\ufeff", "\u2060\u202e", "\x1b", "\u3164"])
def test_wide_and_hidden_formulas_are_texts_in_csv_too(tmp_path, before, sign):
    write_csv(pl.DataFrame({"reason": [f"{before}{sign}cmd()", f"a{before}{sign}1"]}), tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_bytes().decode()
    assert f"'{before}{sign}cmd()" in lines
    assert f"'a{before}{sign}1" not in lines
