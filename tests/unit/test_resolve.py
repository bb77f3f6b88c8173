"""resolve and prefetch: a small study's checkpoints and data on a local hub become locks, and its data are proved."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from scripts.commands import prefetch, resolve
from scripts.lib.data import suites
from scripts.lib.hub import locks, patience
from scripts.lib.runtime.config_files import ConfigError, read_yaml
from scripts.lib.study.plan import make_plan
from tests.hub import connect
from tests.hub.server import Hub
from tests.unit import benchmark_rows

CHECKPOINT = {"config.json": b"{}", "model.safetensors": b"weights", "README.md": b""}
TRAJECTORY = {
    "source": "hub",
    "repo": "tiny/model",
    "model": {"architecture": "llama", "parameters": 200_000, "context": 128},
    "tokens_per_step": 1000,
    "revisions": {"pattern": r"step(?P<step>\d+)", "verified": True, "all": ["step10", "step20", "step30"]},
    "schedule": {"name": "constant", "peak": 0.001, "warmup": 10},
    "sources": [{"figures": ["schedule"], "source": "this test", "verified": True}],
}
MEAN = {"source": "average", "of": "tiny", "average": "lawa", "window": 2, "stride": 10, "keep": [30]}
SCIQ, SIQA, TEXTS = "datasets/allenai/sciq", "datasets/lighteval/siqa", "datasets/org/texts"
CORPUS = {"source": "hub", "dataset": "org/texts", "split": "train", "documents": 9}
CORPUS |= {"fractions": {"validation": 1, "calibration": 0}}
BRANCH = locks.CONVERTED


@pytest.fixture
def config(tmp_path):
    """A folder like config/, and a function that makes the plan of a study of it."""
    folder = tmp_path / "config"
    for name, content in (("tiny", TRAJECTORY), ("mean", MEAN)):
        (folder / "trajectories").mkdir(parents=True, exist_ok=True)
        (folder / f"trajectories/{name}.yaml").write_text(yaml.safe_dump(content))
    (folder / "tasks").mkdir()
    shutil.copytree("config/corpora", folder / "corpora")

    def plan(*tasks, corpora=None):
        tasks = tasks or ("sciq",)
        asked = [{"task": task, "num_fewshot": 2} for task in tasks]
        (folder / "tasks/suite-toy.yaml").write_text(yaml.safe_dump({"tasks": asked, "batch_size": 2, "limit": None}))
        block = {"trajectories": ["mean", "tiny"], "methods": ["none"], "checkpoints": [30]}
        block |= {"loss": ["docstrings", *(corpora or {})]}
        study = {"name": "toy", "title": "Toy", "cells": [block | {"tasks": ["toy"]}]}
        folders = {"resources": str(tmp_path / "resources"), "results": str(tmp_path / "results")}
        default = read_yaml("config/default.yaml")
        for name, content in (corpora or {}).items():
            (folder / f"corpora/{name}.yaml").write_text(yaml.safe_dump(content))
        return make_plan(default | {"study": study, "folders": folders}, folder)

    return folder, plan


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as server:
        for step in (10, 20, 30):
            server.add("tiny/model", f"step{step}", CHECKPOINT | {"model.safetensors": b"%d" % step})
        server.add("tiny/model", "main", {"tokenizer.json": b"{}"})
        server.add(TEXTS, "main", {"data.jsonl": b""})
        server.add(TEXTS, "v2", {"data.jsonl": b"{}"})
        for repo in (SCIQ, SIQA):
            name = repo.removeprefix("datasets/").replace("/", "--")
            splits = ("train", "validation", "test")
            server.add(
                repo, BRANCH, {f"default/{split}/0000.parquet": benchmark_rows.parquet(name, 3) for split in splits}
            )
        connect(server, monkeypatch)
        yield server


def read(folder, name):
    return json.loads((folder / "locks" / f"{name}.json").read_text())


def test_checkpoints_and_data_are_locked(server, config):
    folder, plan = config
    assert resolve.resolve(plan("sciq", "social_iqa"), folder) == []
    lock = read(folder / "trajectories", "tiny")
    assert list(lock["revisions"]) == ["step20", "step30"]  # step 20 for the average
    assert lock["revisions"]["step30"]["commit"] == server.repos["tiny/model"].branches["step30"]
    assert list(lock["tokenizer"]["files"]) == ["tokenizer.json"]
    lock = read(folder / "datasets", "lighteval--siqa")
    assert list(lock) == ["revisions"]
    assert lock["revisions"][BRANCH]["commit"] == server.repos[SIQA].branches[BRANCH]
    files = lock["revisions"][BRANCH]["files"]
    assert list(files) == ["default/train/0000.parquet", "default/validation/0000.parquet"]
    assert all(entry["bytes"] > 0 and entry.keys() & {"sha256", "blob"} for entry in files.values())
    assert (folder / "datasets/locks/allenai--sciq.json").is_file()
    assert plan("sciq").trajectories["tiny"].published(30)["locked"] is not None


def test_what_the_hub_does_not_give_is_said_and_the_rest_is_locked(server, config):
    folder, plan = config
    server.fault("/revision/step20", status=404, code="RevisionNotFound")
    server.fault("/datasets/lighteval/siqa", status=401, code="GatedRepo")
    missing, gated = resolve.resolve(plan("social_iqa", "sciq"), folder)
    assert "step20: the hub has no such revision" in missing
    assert "lighteval/siqa" in gated
    assert list(read(folder / "trajectories", "tiny")["revisions"]) == ["step30"]
    assert (folder / "datasets/locks/allenai--sciq.json").is_file()


def test_a_repository_that_fails_is_named_and_the_others_are_asked(server, config, monkeypatch):
    folder, plan = config
    monkeypatch.setattr(patience, "sleep", lambda seconds: None)
    server.fault("/revision/step30", status=503, times=math.inf)
    (failed,) = resolve.resolve(plan("sciq"), folder)
    assert failed.startswith("tiny/model at revision step30: the hub failed 6 times")
    assert list(read(folder / "trajectories", "tiny")["revisions"]) == ["step20"]
    assert (folder / "datasets/locks/allenai--sciq.json").exists()


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (b"<html>Please log in</html>", "it is not JSON"),
        (b"[]", "it holds no keys and values, but list"),
        (b'{"sha": "../../x", "siblings": []}', r"`sha`: '\.\./\.\./x' is no commit"),
        (
            b'{"sha": "%s", "siblings": [{"rfilename": "a", "size": null, "blobId": ""}]}' % (b"0" * 40),
            "None is not of",
        ),
    ],
    ids=["html", "list", "hash", "null"],
)
def test_a_hub_that_lies_locks_nothing_and_stops_nothing(server, config, monkeypatch, lie, message):
    folder, plan = config
    for where in ("/models/tiny/model/revision/step20", "/datasets/lighteval/siqa"):
        server.fault(where, says=lie)
    study = plan("social_iqa", "sciq", corpora={"newest": CORPUS})
    monkeypatch.setattr(resolve, "load_plan", lambda: study)
    monkeypatch.setattr(resolve, "FOLDER", folder)
    monkeypatch.setattr(sys, "argv", ["resolve"])
    with pytest.raises(SystemExit, match=message) as ended:
        resolve.main()
    trajectory, dataset = str(ended.value).split("\n")
    assert trajectory.startswith("tiny/model at revision step20: the hub's answer is none that a hub gives (")
    assert dataset.startswith(f"lighteval/siqa at revision {BRANCH}: the hub's answer is none that a hub gives (")
    assert list(read(folder / "trajectories", "tiny")["revisions"]) == ["step30"]
    locked = {path.stem for path in (folder / "datasets/locks").iterdir()}
    assert locked == {"allenai--sciq", "org--texts"}


def test_a_hub_that_fails_altogether_ends_it(server, config, monkeypatch):
    folder, plan = config
    monkeypatch.setattr(patience, "sleep", lambda seconds: None)
    server.fault(status=503, times=math.inf)
    *failed, left = resolve.resolve(plan("sciq", "social_iqa"), folder)
    assert [note.split(":")[0] for note in failed] == [
        "tiny/model at revision step20",
        f"allenai/sciq at revision {BRANCH}",
    ]
    assert left == "two repositories in a row: 1 more are not asked for"


def test_what_moved_is_said_and_not_followed(server, config):
    folder, plan = config
    resolve.resolve(plan("sciq"), folder)
    path = folder / "datasets/locks/allenai--sciq.json"
    before = read(folder / "datasets", "allenai--sciq")["revisions"][BRANCH]
    removed = before["files"].pop("default/train/0000.parquet")  # as if no study had asked for it yet
    path.write_text(json.dumps({"revisions": {BRANCH: before}}))
    other = benchmark_rows.parquet("allenai--sciq", 4)
    server.move(SCIQ, BRANCH, {f"default/{split}/0000.parquet": other for split in ("train", "test")})
    (moved,) = resolve.resolve(plan("sciq"), folder)
    assert moved.startswith(f"allenai/sciq: `{BRANCH}` moved from {before['commit'][:12]} to ")
    after = read(folder / "datasets", "allenai--sciq")["revisions"][BRANCH]
    assert after["commit"] == before["commit"]
    assert after["files"]["default/train/0000.parquet"] == removed


def test_what_is_locked_is_not_replaced_under_the_same_commit(server, config):
    folder, plan = config
    resolve.resolve(plan(), folder)
    path = folder / "trajectories/locks/tiny.json"
    lock = json.loads(path.read_text())
    files = lock["revisions"]["step30"]["files"]
    files["model.safetensors"]["sha256"] = "0" * 64  # as if the hub had said so then, and had not listed the config
    del files["config.json"]
    path.write_text(json.dumps(lock))
    (note,) = resolve.resolve(plan(), folder)
    assert re.match("tiny/model at [0-9a-f]{12}: the hub says another size or hash of model.safetensors than", note)
    assert read(folder / "trajectories", "tiny") == lock


def test_corpora_are_locked_and_pinned(server, config):
    folder, plan = config
    heads, path = server.repos[TEXTS].branches, folder / "datasets"
    corpora = {"newest": CORPUS, "second": CORPUS | {"revision": "v2"}, "disk": CORPUS | {"dataset": str(folder)}}
    assert locks.pin(path, CORPUS) == CORPUS
    assert resolve.resolve(plan(corpora=corpora), folder) == []
    assert {key: entry["commit"] for key, entry in read(path, "org--texts")["revisions"].items()} == heads
    before = heads["main"]
    assert locks.pin(path, CORPUS) == dict(sorted((CORPUS | {"revision": before}).items()))
    assert locks.pin(path, corpora["second"])["revision"] == heads["v2"]
    assert locks.pin(path, corpora["disk"]) == corpora["disk"]
    after = server.move(TEXTS, "main", {"data.jsonl": b"[]"})
    moved = f"org/texts: `main` moved from {before[:12]} to {after[:12]}; the lock is kept"
    assert resolve.resolve(plan(corpora=corpora), folder) == [moved]
    assert locks.pin(path, CORPUS)["revision"] == before
    missing = {"gone": CORPUS | {"revision": "v3"}}
    (told,) = resolve.resolve(plan(corpora=missing), folder)
    assert told == "org/texts at revision v3: the hub has no such revision or file"


def test_what_was_fetched_without_a_lock_stays_as_it_is(server, config, tmp_path, capsys):
    folder, plan = config
    made = {
        "checkpoints/tiny/step-20",
        "tokenizers/tiny--model",
        "corpora/texts",
        "datasets/allenai--sciq/default/test",
    }
    for place in made:
        (tmp_path / "resources" / place).mkdir(parents=True)
        content = {"definition": CORPUS} if place.startswith("corpora") else {}
        (tmp_path / "resources" / place / "manifest.json").write_text(json.dumps(content))
    study = plan("sciq", "social_iqa", corpora={"texts": CORPUS, "more": CORPUS | {"documents": 3}})
    siblings = {"corpora/more", "datasets/allenai--sciq/default/train"}
    assert resolve.made_without_lock(study, folder) == made | siblings
    assert resolve.resolve(study, folder) == []
    assert capsys.readouterr().out.startswith("6 get no lock, ")
    lock = read(folder / "trajectories", "tiny")
    assert list(lock["revisions"]) == ["step30"]
    assert "tokenizer" not in lock
    for split in ("test", "train"):  # what the rules go by
        assert locks.of_dataset(folder / "datasets", "allenai--sciq", f"default/{split}/0000.parquet") is None
    assert locks.pin(folder / "datasets", CORPUS) == CORPUS
    assert (folder / "datasets/locks/lighteval--siqa.json").exists()


def test_runs_that_share_a_tokenizer_share_its_lock(server, config):
    folder, plan = config
    resolve.resolve(plan(), folder)
    place = Path(plan().config["folders"]["resources"], "tokenizers/tiny--model")
    place.mkdir(parents=True)
    (place / "manifest.json").write_text("{}")
    path = folder / "trajectories/locks/tiny.json"
    path.rename(path.with_name("other.json"))
    server.move("tiny/model", "main", {"tokenizer.json": b"{} "})
    resolve.resolve(plan(), folder)
    assert read(folder / "trajectories", "tiny")["tokenizer"] == read(folder / "trajectories", "other")["tokenizer"]


def test_code_that_was_pinned_after_the_lock_joins_it_from_the_locked_commit(server, config):
    folder, plan = config
    first = server.move("tiny/model", "step30", CHECKPOINT | {"modeling.py": b"pass"})
    resolve.resolve(plan(), folder)
    assert "modeling.py" not in read(folder / "trajectories", "tiny")["revisions"]["step30"]["files"]
    server.move("tiny/model", "step30", CHECKPOINT | {"modeling.py": b"raise"})
    for step in (20, 30):
        server.move("tiny/model", f"step{step}", CHECKPOINT | {"modeling.py": b"pass", "step": b"%d" % step})
    (folder / "trajectories/tiny.yaml").write_text(
        yaml.safe_dump(TRAJECTORY | {"remote_code": {"modeling.py": "0" * 64}})
    )
    study = plan()
    study.losses = {
        cell: corpora for cell, corpora in study.losses.items() if (cell.trajectory, cell.step) == ("tiny", 30)
    }
    (moved,) = resolve.resolve(study, folder)
    assert "`step30` moved" in moved
    entry = read(folder / "trajectories", "tiny")["revisions"]["step30"]
    assert entry["commit"] == first
    assert entry["files"]["modeling.py"]["bytes"] == len("pass")


def entry(**wrong):
    """A lock of one revision."""
    known = {"repo": "tiny/model", "commit": "0" * 40, "files": {}}
    return json.dumps({"revisions": {"step30": known | wrong}})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"revisions": {},}', "it is not JSON: Expecting property name"),
        ("[" * 100_000, "it is nested deeper than 64 levels"),
        ('{"step30": {}}', "'revisions' is a required property"),
        (entry(commit="main"), "`revisions.step30.commit`: 'main' is no commit"),
        (entry(repo="../model"), r"'\.\./model' is no name of a repository"),
        (entry(files={"../up": {"bytes": 1, "blob": "0" * 40}}), r"'\.\./up' is no file of a repository"),
        (
            entry(files={"up": {"bytes": None, "blob": "0" * 40}}),
            r"`revisions.step30.files.up.bytes`: None is not of type",
        ),
        (entry(files={"up": {"bytes": 1, "sha256": "../x"}}), r"'\.\./x' is no SHA-256"),
        (entry(files={"up": {"bytes": 1}}), "is not valid under any of the given schemas"),
    ],
    ids=range(9),
)
def test_a_lock_that_is_none_is_named(config, content, message):
    folder, plan = config
    path = locks.path_of(folder / "trajectories", "tiny")
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(
        ConfigError, match=f"{path} is no lock .*{message}.*; mend it, or delete it and run `make resolve`"
    ):
        plan()


@pytest.fixture
def fetched(config, tmp_path, tiny_tokenizer):
    """The plan of a study of which all data are there."""
    folder, make = config
    plan, root = make("sciq", "social_iqa"), tmp_path / "resources"
    known = suites.load_tasks(suites.load_suite(folder / "tasks/suite-toy.yaml"), folder / "tasks")
    benchmark_rows.write(root, known)
    (root / "corpora/docstrings").mkdir(parents=True)
    pl.DataFrame({"document": ["a"], "text": ["w1 w2 w3"]}).write_parquet(
        root / "corpora/docstrings/validation.parquet"
    )
    tiny_tokenizer.save_pretrained(root / "tokenizers/tiny--model/tokenizer")
    return plan, root, folder / "tasks"


def test_what_is_fetched_is_proved(fetched, capsys):
    plan, _, folder = fetched
    assert prefetch.prove(plan, folder)
    assert capsys.readouterr().out.splitlines() == [
        "ok      suite toy: task sciq: 4 requests with 2 examples",
        "ok      suite toy: task social_iqa: 3 requests with 2 examples",
        "ok      corpus docstrings: 8 characters, 3 tokens of tiny--model",
    ]


def test_a_corpus_without_validation_documents_is_read_where_it_has_some(fetched, capsys):
    plan, root, folder = fetched
    texts = root / "corpora/docstrings"
    (texts / "validation.parquet").rename(texts / "calibration.parquet")
    pl.DataFrame(schema={"text": pl.String}).write_parquet(texts / "validation.parquet")
    plan.config["fetch"]["keep_weights"] = False
    assert prefetch.prove(plan, folder)
    corpus, later = capsys.readouterr().out.splitlines()[-2:]
    assert corpus == "ok      corpus docstrings: 8 characters, 3 tokens of tiny--model"
    assert later.startswith("later   checkpoints: each is fetched when its turn comes")


def test_a_panic_in_one_check_does_not_stop_the_others(fetched, capsys, monkeypatch):
    """Those of libraries in Rust are no Exception; which rare word makes a tokenizer panic, only it knows."""
    plan, _, folder = fetched
    panic = type("PanicException", (BaseException,), {})
    made, asked = prefetch.make_requests, []

    def make_requests(name, *others):
        asked.append(name)
        if name == "sciq":
            raise panic("no entry found for key")
        return made(name, *others)

    monkeypatch.setattr(prefetch, "make_requests", make_requests)
    assert not prefetch.prove(plan, folder)
    sciq, siqa, corpus = capsys.readouterr().out.splitlines()
    assert sciq == "failed  suite toy: task sciq: PanicException: no entry found for key"
    assert (siqa[:2], corpus[:2]) == ("ok", "ok")


def test_what_cannot_be_used_is_named_and_the_rest_still_proved(fetched, capsys):
    plan, root, folder = fetched
    (root / "datasets/allenai--sciq/default/train/0000.parquet").write_bytes(
        benchmark_rows.parquet("lighteval--siqa", 6)
    )
    (root / "corpora/docstrings/validation.parquet").unlink()
    assert not prefetch.prove(plan, folder)
    sciq, siqa, corpus = capsys.readouterr().out.splitlines()
    assert sciq.startswith("failed  suite toy: task sciq: ")
    assert siqa.startswith("ok ")
    assert corpus.startswith("failed  corpus docstrings: ")


def test_words_of_an_error_steer_no_terminal(fetched, capsys, monkeypatch):
    plan, _, folder = fetched

    def fail():
        raise ValueError("tokenizer \x1b[2J\x1b]0;owned\x07 said\nok  all")

    monkeypatch.setattr(prefetch, "checks", lambda plan, folder: [("corpus c", fail)])
    assert not prefetch.prove(plan, folder)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert line.startswith("failed  corpus c: ValueError: tokenizer ")
