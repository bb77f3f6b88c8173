"""streaming: a model run block by block answers the harness as it does in memory, and needs no more than a block."""

import ast
import os
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import Collator
from transformers import AutoTokenizer

from scripts.lib.models import streaming
from scripts.lib.models.loading import load_dense
from scripts.lib.models.streaming import Batch, batched, together
from scripts.lib.runtime import devices
from tests.tools import ROOT
from tests.unit.test_blockwise import KINDS, save
from tests.unit.test_evaluate_tasks import root, run, write_suite  # noqa: F401 - a fixture
from tests.unit.test_prefixes import requests_of

LET_GO = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}  # bytes, from which on memory goes back when it is let go
CAPPED = """
import resource, sys
from pathlib import Path
from scripts.evaluate_tasks import score
from scripts.lib.data import suites
from scripts.lib.models import streaming

def data():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10

root, small, large, suite = map(Path, sys.argv[1:])
arguments = (suites.load_suite(suite), suite.parent, root, "float32", 1)
streaming.memory_of = lambda device: 1
score(small, *arguments)  # imports what there is to import
cap = data() + (140 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
print("rows:", score(large, *arguments)[1])
streaming.memory_of = lambda device: 1 << 40
try:
    score(large, *arguments)
except (MemoryError, RuntimeError) as error:
    print("whole:", error)
"""


def mixed(draw) -> list:
    """Requests of many lengths: of several answers, of one token each, twice the same, longer than the model reads."""
    made = requests_of(draw, 5, 4, length=40) + requests_of(draw, 3, 3, length=5) + requests_of(draw, 1, 2, length=90)
    made += [(("", ""), [7] * 12, [number]) for number in range(1, 6)] + made[:2]
    return [made[number] for number in draw.permutation(len(made))]


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"mpt"}))
def test_answers_are_those_of_the_whole_model_bit_for_bit(tmp_path, tiny_tokenizer, monkeypatch, kind, dtype):
    folder = save(tmp_path / "model", kind, initializer_range=0.2)
    settings = {"tokenizer": tiny_tokenizer, "batch_size": 4, "max_length": 64}
    calls = [mixed(np.random.default_rng(0)), [], mixed(np.random.default_rng(1))[:3]]
    whole = HFLM(pretrained=load_dense(folder, dtype), **settings)
    expected = [whole._loglikelihood_tokens(requests, disable_tqdm=True) for requests in calls]
    monkeypatch.setattr(streaming, "memory_of", lambda device: 1)
    model, read = streaming.too_large(folder, dtype, "cpu"), []
    lm, of_block = HFLM(pretrained=model.model, **settings), model.read
    monkeypatch.setattr(model, "read", lambda number: read.append(number) or of_block(number))
    method = streaming.streaming(lm, model, lambda: [lm._loglikelihood_tokens(requests) for requests in calls])
    assert method() == expected
    assert read == [0, 1, 2], "each block is read once for all batches"
    monkeypatch.setattr(streaming, "MOST_STATES", 200 * model.state)
    assert method() == expected
    assert len(read) > 6, "several times where hidden states would be too many"


def test_batches_are_those_of_the_harness():
    requests = mixed(np.random.default_rng(0))
    collator = Collator(
        requests,
        sort_fn=lambda request: (-len(request[1] + request[2]), tuple(request[1] + request[2])),
        group_by="contexts",
        group_fn=lambda request: request[-2] + request[-1][:-1],
    )
    rows = [{tuple(question + answer[:-1]) for _, question, answer in batch} for batch in collator.get_batched(n=4)]
    ours = [{tuple(requests[i][1] + requests[i][2][:-1]) for i in numbers} for numbers in batched(requests, 4)]
    assert ours == rows
    assert sorted(number for numbers in batched(requests, 4) for number in numbers) == list(range(len(requests)))


def test_batches_pass_together_up_to_a_number_of_tokens():
    sizes = [10, 10, 5, 30, 1, 1]
    batches = [Batch(0, [], [], np.zeros((1, size), np.int64)) for size in sizes]
    assert [[batch.ids.size for batch in part] for part in together(batches, 20)] == [[10, 10], [5], [30], [1, 1]]


@pytest.mark.parametrize("suite", ["toy", "choices"])
def test_scores_of_a_cell_are_the_same(root, tmp_path, monkeypatch, caplog, suite):  # noqa: F811
    write_suite(root, "choices", ["docstrings-choice", "docstrings-cloze"])
    run(root, tmp_path / "whole", suite)
    monkeypatch.setattr(streaming, "memory_of", lambda device: 1)
    caplog.set_level("INFO", logger="scripts.lib.models.streaming")
    run(root, tmp_path / "blocks", suite)
    assert "is run block by block" in caplog.text
    for name in ("tasks.json", "tasks.parquet"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes()


@pytest.mark.full  # test_blockwise has one for every day
def test_a_memory_below_the_size_of_the_model_is_enough(root, tmp_path):  # noqa: F811
    """200 MB in float32, of files in bfloat16, with 140 MB for weights, hidden states and logits."""
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    sizes = {"vocab_size": 300, "max_position_embeddings": 512}
    small, large = save(tmp_path / "small", **sizes), save(tmp_path / "large", dtype=torch.bfloat16, **sizes, **wide)
    for folder in (small, large):
        AutoTokenizer.from_pretrained(root / "cell/model").save_pretrained(folder)
    suite = yaml.safe_load((root / "suites/suite-toy.yaml").read_text()) | {"limit": 1}
    (root / "suites/suite-short.yaml").write_text(yaml.safe_dump(suite))
    command = [sys.executable, "-c", CAPPED, root, small, large, root / "suites/suite-short.yaml"]
    settings = {"cwd": ROOT, "capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, env=os.environ | LET_GO, **settings)
    assert done.returncode == 0, done.stderr
    rows, whole = (
        next(line for line in done.stdout.splitlines() if line.startswith(key)) for key in ("rows:", "whole:")
    )
    assert whole, "as a whole it does not fit"
    run(root, tmp_path / "whole", "short", model=large)
    expected = pl.read_parquet(tmp_path / "whole/tasks.parquet").rows()
    assert ast.literal_eval(rows.removeprefix("rows: ")) == expected


def test_memory_is_what_the_groups_of_processes_leave(tmp_path, monkeypatch):
    """As systemd and Slurm set it: for a group, or for one around it."""
    machine = devices.memory_of("cpu")
    (tmp_path / "groups/job/step").mkdir(parents=True)
    (tmp_path / "own").write_text("1:name=systemd:/other\n0::/job/step\n")
    monkeypatch.setattr(devices, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(devices, "OWN_GROUP", tmp_path / "own")
    assert devices.memory_of("cpu") >= machine
    (tmp_path / "groups/job/step/memory.max").write_text("max\n")
    (tmp_path / "groups/job/memory.max").write_text("4096\n")
    assert devices.memory_of("cpu") == 4096
