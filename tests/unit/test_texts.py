"""Texts that are too small: named before work where that is certain, and never where the stages can do with them."""

import json
import os
import shutil

import polars as pl
import pytest
import yaml

from scripts.corpus import SPLITS, corpus
from scripts.lib.runtime.config_files import ConfigError, read_yaml
from scripts.lib.study.plan import make_plan
from scripts.lib.study.preflight import require_sources
from scripts.lib.study.texts import text_of_files, too_small
from scripts.tokenize import tokenize
from scripts.tokenizer import tokenizer

HALF = {"validation": 0.25, "calibration": 0.25}
DOCUMENTS = 40
TEXT = "ein kurzer Text, Nummer"


@pytest.fixture
def study(tmp_path):
    """A function that makes the plan of a run on own texts, of DOCUMENTS lines, with changes of its files."""
    folder = shutil.copytree("config", tmp_path / "config")
    lines = [json.dumps({"text": f"{TEXT} {number}."}) for number in range(DOCUMENTS)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    own = {"source": "files", "paths": [f"{tmp_path}/*.jsonl"], "fractions": HALF}

    def write(place, content):
        (folder / f"{place}.yaml").write_text(yaml.safe_dump(content))

    def plan(window=64, samples=2, vocabulary=280, trained=64, **changes):
        write("corpora/own", own | changes)
        write("tokenizers/own", {"source": "train", "corpus": "own", "vocabulary": vocabulary})
        run = read_yaml("config/trajectories/smoke.yaml")
        write("trajectories/own", run | {"corpus": "own", "tokenizer": "own", "window": trained})
        cells = {"trajectories": ["own"], "methods": ["nf4"], "loss": ["own"]}
        config = read_yaml("config/default.yaml")
        config["folders"] = {name: str(tmp_path / name) for name in ("resources", "results")}
        config["quantize"]["probe"] = {"corpus": "own", "samples": samples, "window": window, "seed": 1}
        config["evaluate_loss"]["window"] = min(window, trained)
        return make_plan(config | {"study": {"name": "own", "title": "Own", "cells": [cells]}}, folder)

    plan.root = tmp_path
    return plan


def make_corpus(plan):
    folder = plan.paths.corpus("own")
    out = {split: f"{folder}/{split}.parquet" for split in SPLITS}
    return corpus(plan.corpora["own"], "own", out, f"{folder}/manifest.json")


def make_tokens(plan):
    """Tokens of all splits, by the stages themselves."""
    text, folder = plan.paths.corpus("own"), plan.paths.tokenizer("own")
    tokenizer(plan.tokenizers["own"], "own", f"{text}/train.parquet", f"{folder}/tokenizer", f"{folder}/manifest.json")
    made = {}
    for split in SPLITS:
        place = plan.paths.tokens("own", "own", split)
        out = {"tokens": f"{place}.npy", "documents": f"{place}-documents.parquet", "manifest": f"{place}.json"}
        names = {"tokenizer": "own", "corpus": "own", "split": split}
        made[split] = tokenize(f"{text}/{split}.parquet", f"{folder}/tokenizer", names, out)["tokens"]
    return made


def test_files_say_all_at_once_what_is_too_small(study):
    size = (study.root / "texts.jsonl").stat().st_size
    made = study(window=9_000, samples=5, vocabulary=256 + size + 1, trained=10_000)
    assert too_small(made) == [
        f"tokenizer `own`: corpus `own`, split train, has at most {size:,} bytes (its files), which give at most "
        f"{256 + size:,} entries, and `vocabulary` is {257 + size:,}",
        *(
            f"corpus `own`, split {split}, has at most {2 * size:,} tokens of `own` (its files), and {use} needs {n:,}"
            for split, use, n in (
                ("calibration", "`quantize.probe` (5 windows of 9000)", 45_000),
                ("train", "a window of `own`", 10_000),
                ("validation", "a window of `evaluate_loss`", 9_000),
            )
        ),
    ]
    with pytest.raises(ConfigError, match="which give at most"):
        require_sources(made)
    assert too_small(study(window=size, samples=2, trained=size, vocabulary=256 + size)) == []


def test_what_was_made_and_counted_says_more_than_files(study):
    made = study()
    splits = make_corpus(made)["splits"]
    asked = 4 * splits["calibration"]["characters"] + splits["calibration"]["documents"]
    assert too_small(study(window=64, samples=asked // 64)) == []
    (line,) = too_small(study(window=64, samples=asked // 64 + 1))
    assert f"split calibration, has at most {asked:,} tokens of `own` ({study.root}/resources/corpora/own/m" in line
    tokens = make_tokens(made)["calibration"]
    assert tokens < asked
    assert too_small(study(window=16, samples=tokens // 16)) == []
    (line,) = too_small(study(window=16, samples=tokens // 16 + 1))
    assert line.startswith(f"corpus `own`, split calibration, has {tokens} tokens of `own` ({study.root}/resources/tok")
    assert line.endswith(f"and `quantize.probe` ({tokens // 16 + 1} windows of 16) needs {16 * (tokens // 16 + 1):,}")


def test_what_will_be_made_again_says_nothing(study):
    make_corpus(study())
    make_tokens(study())
    large = {"window": 16, "samples": 60}
    assert "has at most" not in too_small(study(**large))[0]
    assert too_small(study(**large, vocabulary=281)) == [], "another tokenizer: only the text's size counts"
    assert too_small(study(**large, minimum_characters=2)) == [], "another corpus: only the files' sizes count"
    os.utime(study.root / "resources/corpora/own/manifest.json", (2e9, 2e9))
    assert too_small(study(**large)) == [], "a newer corpus: these tokens are not of it"
    (study.root / "resources/corpora/own/manifest.json").write_text("{")
    assert too_small(study(**large)) == [], "a broken manifest is made again"


def test_bounds_are_reached_and_never_passed(study, tmp_path):
    """Text of one word gives exactly the entries and tokens that the bounds allow."""
    word = "abcdefghijklmnop"
    pl.DataFrame({"document": ["0"], "text": [word]}).write_parquet(tmp_path / "word.parquet")
    most, text = 256 + len(word), str(tmp_path / "word.parquet")
    definition = {"source": "train", "corpus": "own", "vocabulary": most}
    tokenizer(definition, "own", text, str(tmp_path / "t"), str(tmp_path / "t.json"))
    with pytest.raises(ValueError, match=f"gives only {most} entries"):
        tokenizer(definition | {"vocabulary": most + 1}, "own", text, str(tmp_path / "u"), str(tmp_path / "u.json"))
    tokenizer(definition | {"vocabulary": 257}, "own", text, str(tmp_path / "v"), str(tmp_path / "v.json"))
    out = {key: str(tmp_path / f"w-{key}") for key in ("documents", "manifest")} | {"tokens": str(tmp_path / "w.npy")}
    names = {"tokenizer": "own", "corpus": "own", "split": "train"}
    assert tokenize(text, str(tmp_path / "v"), names, out)["tokens"] == len(word) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"documents": 2}, "corpus `own`: of at most 2 documents each of train, validation, calibration needs one"),
        (
            {"documents": 100, "minimum_characters": 100},
            "corpus `own`: its files have at most 15 documents, and `documents` is 100",
        ),
        ({"minimum_characters": 1000}, "corpus `own`: of at most 1 documents each of train, validation, calibration"),
    ],
)
def test_too_few_documents(study, changes, message):
    assert too_small(study(**changes))[0].startswith(message)
    with pytest.raises(ValueError, match="corpus own: "):
        make_corpus(study(**changes))


def test_a_corpus_of_a_hub_is_known_by_its_documents_alone(study):
    hub = {"source": "hub", "dataset": "org/texts", "split": "train", "documents": 2, "fractions": HALF}
    path = study.root / "config/corpora/own.yaml"
    made = study()
    path.write_text(yaml.safe_dump(hub))
    made.corpora["own"] = hub
    (line,) = too_small(made)
    assert "of at most 2 documents" in line
    made.corpora["own"] = hub | {"documents": 3}
    assert too_small(made) == []


def test_what_no_size_tells_is_no_fault(study):
    pl.DataFrame({"text": ["a"]}).write_parquet(study.root / "more.parquet")
    paths = [f"{study.root}/texts.jsonl", f"{study.root}/more.parquet"]
    assert too_small(study(vocabulary=100_000, paths=paths)) == [], "parquet is compressed"
    assert text_of_files({"source": "files", "paths": [f"{study.root}/*.txt"]}, 10) is None, "nothing is there yet"
    assert text_of_files({"source": "files", "paths": [f"{study.root}/*.jsonl"]}, 10) is None, "enough"
