"""Published trajectories from a local hub to measurements: resolve, fetch, quantize and evaluate real model classes."""

import json
import os
import shutil
import subprocess
import sys

import polars
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.lib.runtime import manifests
from tests.hub.server import Hub
from tests.tools import ROOT, command, copy_tree, edit, planned

SHAPE = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
CLASSES = ("llama", "gpt_neox", "olmo", "olmo2", "smollm3", "apertus")
STEPS = (10, 20)
METHODS = ["rtn-w3-g32", "gptq-w3-g16", "nf4"]


def publish(hub, folder, architecture, tokenizer, steps=STEPS):
    """Some revisions of a small random model of a class, its weights in shards and its tokenizer elsewhere."""
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    special |= {"num_key_value_heads": 1} if architecture == "smollm3" else {}  # by default it has 4, more than heads
    config = AutoConfig.for_model(architecture, vocab_size=512, max_position_embeddings=128, **SHAPE, **special)
    hub.add("tiny/tokenizer", "main", tokenizer)
    for seed, step in enumerate(steps):
        torch.manual_seed(seed)
        place = folder / f"{architecture}-{step}"
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(place, max_shard_size="100KB")
        assert len(list(place.glob("model-*.safetensors"))) > 1
        hub.add(f"tiny/{architecture}", f"stage1/step{step}", place)
    sizes = {name: SHAPE[name] for name in ("hidden_size", "num_hidden_layers")}
    return {
        "source": "hub",
        "repo": f"tiny/{architecture}",
        "tokenizer_repo": "tiny/tokenizer",
        "model": {"architecture": architecture, "parameters": 200_000, "vocab_size": 512, "context": 128} | sizes,
        "tokens_per_step": 1000,
        "revisions": {
            "pattern": r"stage1/step(?P<step>\d+)",
            "verified": True,
            "all": [f"stage1/step{step}" for step in steps],
        },
        "schedule": {"name": "linear", "peak": 0.001, "warmup": 10, "end": steps[-1]},
        "sources": [{"figures": ["schedule"], "source": "this test", "verified": True}],
    }


def study(classes, methods):
    """The smoke study on published trajectories: their last checkpoints, loss alone."""
    content = yaml.safe_load((ROOT / "config/studies/smoke.yaml").read_text())
    names = [f"tiny-{name.replace('_', '-')}" for name in classes]
    block = {"trajectories": names, "checkpoints": {"phase": "decay"}, "methods": methods, "loss": ["smoke"]}
    return content | {"study": {"name": "hub", "title": "Hub", "cells": [block]}}


@pytest.fixture(scope="module")
def tokenizer(finished):
    return finished / "resources/tokenizers/smoke/tokenizer"


def prepare(tree, hub, folder, classes, tokenizer, steps=STEPS, methods=("rtn-w3-g32",)):
    for name in classes:
        content = publish(hub, folder, name, tokenizer, steps)
        (tree / f"config/trajectories/tiny-{name.replace('_', '-')}.yaml").write_text(yaml.safe_dump(content))
    (tree / "config/studies/hub.yaml").write_text(yaml.safe_dump(study(classes, list(methods))))


def add_broken(tree, hub, folder):
    """Add a trajectory to the study whose weights are not those of the model that its config makes."""
    for step in STEPS:
        files = {path.name: path.read_bytes() for path in (folder / f"llama-{step}").iterdir()}
        config = json.loads(files["config.json"]) | {"num_hidden_layers": 3}
        hub.add("tiny/broken", f"stage1/step{step}", files | {"config.json": json.dumps(config).encode()})
    trajectories = tree / "config/trajectories"
    content = yaml.safe_load((trajectories / "tiny-llama.yaml").read_text()) | {"repo": "tiny/broken"}
    (trajectories / "tiny-broken.yaml").write_text(yaml.safe_dump(content))
    block = {"trajectories": ["tiny-broken"], "checkpoints": "last", "methods": ["none"], "loss": ["smoke"]}
    edit(tree / "config/studies/hub.yaml", lambda content: content["study"]["cells"].append(block))


def run(tree, hub, *arguments):
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(arguments, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout + done.stderr


@pytest.mark.full  # test_prefetch is for every day
def test_from_branch_names_to_measurements(tmp_path, tokenizer, finished):
    tree = copy_tree(tmp_path / "tree")
    shutil.copytree(finished / "resources/corpora", tree / "resources/corpora")
    with Hub(tmp_path / "hub") as hub:
        prepare(tree, hub, tmp_path, CLASSES, tokenizer, methods=METHODS)
        add_broken(tree, hub, tmp_path)
        run(tree, hub, sys.executable, "-m", "scripts.commands.resolve", "hub")
        lock = json.loads((tree / "config/trajectories/locks/tiny-llama.json").read_text())
        commit = hub.repos["tiny/llama"].branches["stage1/step20"]
        assert lock["revisions"]["stage1/step20"]["commit"] == commit
        hub.move("tiny/llama", "stage1/step20", {"config.json": b"{}"})
        hub.requests.clear()
        run(tree, hub, *command("hub", "--until", "tabulate", "--rerun-triggers", "mtime"))
        assert not [address for _, address, *_ in hub.requests if address.startswith("/api/models")]
    made = manifests.read(tree / "resources/checkpoints/tiny-llama/step-20/manifest.json")
    assert (made["commit"], made["name"]) == (commit, "stage1/step20")
    table = polars.read_parquet(tree / "results/tables/hub/measurements.parquet").filter(metric="cross_entropy")
    assert {(row["trajectory"], row["method"]) for row in table.to_dicts()} == {
        (f"tiny-{name.replace('_', '-')}", method) for name in CLASSES for method in ["none", *METHODS]
    }
    (missing,) = polars.read_parquet(tree / "results/tables/hub/missing.parquet").to_dicts()
    assert (missing["trajectory"], missing["checkpoint"]) == ("tiny-broken", "step-20")
    assert "tiny/broken at " in missing["reason"]
    assert "does not load: missing: model.layers.2." in missing["reason"]
    assert set(zip(table["tokens"], table["learning_rate"], strict=True)) == {(20_000, 0.0)}
    before = planned(tree, "hub")
    edit(tree / "config/trajectories/tiny-llama.yaml", lambda content: content["schedule"].update(peak=0.002))
    assert planned(tree, "hub") == before | {"tabulate": 1}, "a corrected rate fetches and measures nothing again"
