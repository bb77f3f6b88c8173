"""A study whose checkpoint, tokenizer and tasks' data come from a hub: all is fetched first, then nothing is asked."""

import os
import random
import subprocess
import sys

import polars
import yaml

from scripts.lib.hub import locks
from scripts.lib.runtime import manifests
from tests.hub.server import Hub
from tests.integration.test_hub import publish
from tests.tools import command, copy_tree, job_counts, planned
from tests.unit import benchmark_rows

TASKS = [{"task": "sciq", "num_fewshot": 1}, {"task": "piqa", "num_fewshot": 1}, {"task": "own", "num_fewshot": 0}]
OWN = {"include": "docstrings-cloze.yaml", "task": "own"}
OWN |= {"dataset_kwargs": {"data_files": {"test": "tasks/letters/cloze.jsonl"}}}
ALONE = ("unshare", "--net")  # before a command that is to have no network at all, not even a loopback device
DATA = {"allenai/sciq": ("train", "test"), "baber/piqa": ("train", "validation")}


def prepare(tree, hub, folder, tokenizer):
    """Write a study of a published checkpoint and corpus, and of a suite of two published tasks and an own one."""
    run = publish(hub, folder, "llama", tokenizer)
    (tree / "config/trajectories/tiny.yaml").write_text(yaml.safe_dump(run))
    (tree / "config/tasks/own.yaml").write_text(yaml.safe_dump(OWN))
    (tree / "config/tasks/suite-toy.yaml").write_text(yaml.safe_dump({"tasks": TASKS, "batch_size": 2, "limit": 3}))
    texts = []
    for number in range(60):
        words = [f"w{random.Random(number * 100 + place).randint(1, 63)}" for place in range(40)]
        texts.append(f"{' '.join(words[:20])} again. {' '.join(words[20:])} more.")
    polars.DataFrame({"content": texts}).write_parquet(folder / "letters.parquet")
    hub.add(
        "datasets/org/letters", "main", {"data/train-00000-of-00001.parquet": (folder / "letters.parquet").read_bytes()}
    )
    letters = {"source": "hub", "dataset": "org/letters", "split": "train", "text_field": "content", "documents": 60}
    letters |= {"fractions": {"validation": 0.4, "calibration": 0.1}}
    block = {
        "trajectories": ["tiny"],
        "checkpoints": "last",
        "methods": ["rtn-w3-g32"],
        "loss": ["letters"],
        "tasks": ["toy"],
    }
    (tree / "config/corpora/letters.yaml").write_text(yaml.safe_dump(letters))
    study = {"study": {"name": "toy", "title": "Toy", "cells": [block]}}
    study["quantize"] = {"probe": {"corpus": "letters", "samples": 2, "window": 32}}
    study["evaluate_loss"] = {"window": 32, "windows": 8}
    (tree / "config/studies/toy.yaml").write_text(yaml.safe_dump(study))
    for repo, splits in DATA.items():
        name = repo.replace("/", "--")
        files = {f"default/{split}/0000.parquet": benchmark_rows.parquet(name, 5) for split in splits}
        hub.add(f"datasets/{repo}", locks.CONVERTED, files)


def run(tree, endpoint, *arguments):
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": f"{tree}/../home"}
    done = subprocess.run(arguments, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout + done.stderr


def test_what_was_prefetched_needs_no_network(tmp_path, tiny_tokenizer):
    tree = copy_tree(tmp_path / "tree")
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
    with Hub(tmp_path / "hub") as hub:
        prepare(tree, hub, tmp_path, tmp_path / "tokenizer")
        run(tree, hub.endpoint, sys.executable, "-m", "scripts.commands.resolve", "toy")
        hub.move("tiny/llama", "stage1/step20", {"config.json": b"newer, and not taken"})
        locked = hub.repos["datasets/org/letters"].branches["main"]
        hub.move("datasets/org/letters", "main", {"data/train-00000-of-00001.parquet": b"newer, and not taken"})
        newer = {f"default/{split}/0000.parquet": b"newer, and not taken" for split in DATA["allenai/sciq"]}
        newer = hub.move("datasets/allenai/sciq", locks.CONVERTED, newer)
        output = run(tree, hub.endpoint, *command("toy", "all_prefetched"))
    assert job_counts(output)["fetch_dataset"] == 4
    said = run(tree, hub.endpoint, *ALONE, sys.executable, "-m", "scripts.commands.prefetch", "toy")
    assert [line.split(":")[0] for line in said.splitlines() if line.startswith("ok ")] == [
        *["ok      suite toy"] * 3,
        "ok      corpus letters",
    ]
    output = run(tree, hub.endpoint, *ALONE, *command("toy", "--until", "tabulate"))
    assert not {"fetch", "fetch_dataset", "fetch_tokenizer", "corpus"} & job_counts(output).keys()
    table = polars.read_parquet(tree / "results/tables/toy/measurements.parquet")
    assert {"sciq", "piqa", "own", "toy", "letters"} == set(table["dataset"])  # `toy` is the mean over the suite
    assert set(table["method"]) == {"none", "rtn-w3-g32"}
    corpus = manifests.read(tree / "resources/corpora/letters/manifest.json")
    assert corpus["definition"]["revision"] == locked
    results = manifests.read(next((tree / "results/evaluated").rglob("tasks-toy.json")))
    lock = locks.read(tree / "config/datasets", "allenai--sciq")
    assert results["datasets"]["allenai/sciq"] == lock["revisions"][locks.CONVERTED]["commit"]
    assert set(planned(tree, "toy")) <= {"mechanism", "laws", "plot", "report", "all"}
    lock["revisions"][locks.CONVERTED]["commit"] = newer
    locks.write(tree / "config/datasets", "allenai--sciq", lock)
    again = {"fetch_dataset": 2, "gather_datasets": 1, "evaluate_tasks": 2, "tabulate": 1}
    assert again.items() <= planned(tree, "toy").items()
