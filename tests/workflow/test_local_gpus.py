"""GPUs of one machine, of which there are none here: what jobs are shown by a driver's files that a test makes."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from scripts.lib.cluster import local_gpus
from scripts.lib.runtime import devices
from tests.tools import ROOT, copy_tree, edit, snakemake

SNAKEFILE = """
import sys
sys.path.insert(0, {root!r})
from scripts.lib.cluster import local_gpus

rule all:
    input: expand("told-{{number}}", number=range(4)), "told-none"

rule on_a_gpu:
    output: "told-{{number}}"
    wildcard_constraints: number="[0-9]"
    resources: local_gpus=1
    script: "tell.py"

rule on_a_cpu:
    output: "told-none"
    script: "tell.py"

onstart:
    local_gpus.mend(local_gpus.Pool(local_gpus.names()))
"""
TELL = """
import os, pathlib, time
mine = os.environ["CUDA_VISIBLE_DEVICES"]
held = pathlib.Path(f"held-{mine}")
if mine:
    held.touch(exist_ok=False)
    time.sleep(0.3)
    held.unlink()
pathlib.Path(snakemake.output[0]).write_text(mine)
"""


def test_jobs_of_one_machine_have_a_gpu_each(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(root=str(ROOT)))
    (tmp_path / "tell.py").write_text(TELL)
    command = [sys.executable, "-m", "snakemake", "--cores", "4", "--resources", "local_gpus=2"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "GPU-a, 3", "SLURM_CONF": "/dev/null"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = [(tmp_path / f"told-{number}").read_text() for number in range(4)]
    assert set(told) == {"GPU-a", "3"}
    assert (tmp_path / "told-none").read_text() == ""


def test_gpus_are_those_of_the_driver_or_of_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv(local_gpus.VISIBLE, raising=False)
    monkeypatch.setattr(local_gpus, "FILES", tmp_path)
    assert local_gpus.names() == []
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert local_gpus.names() == ["0", "1"]
    monkeypatch.setenv(local_gpus.VISIBLE, "1")
    assert local_gpus.names() == ["1"]
    for nothing in ("", "-1"):
        monkeypatch.setenv(local_gpus.VISIBLE, nothing)
        assert local_gpus.names() == []


def test_a_job_that_asks_for_more_than_are_free_waits():
    pool, order = local_gpus.Pool(["0", "1"]), []

    def both():
        with pool.lent(5) as gpus:
            order.append(gpus)

    with pool.lent(1) as first:
        waiting = threading.Thread(target=both)
        waiting.start()
        waiting.join(0.2)
        assert (first, order) == (["0"], [])
    waiting.join(5)
    assert sorted(order[0]) == ["0", "1"]


@pytest.mark.parametrize(("device", "asked"), [("auto", True), ("cpu", False)])
def test_jobs_that_use_a_gpu_say_so(tmp_path, monkeypatch, device, asked):
    monkeypatch.setenv(local_gpus.VISIBLE, "0,1")
    tree = copy_tree(tmp_path / "tree")
    edit(tree / "config/studies/smoke.yaml", lambda study: study.update(compute={"device": device}))
    said = snakemake(tree, "smoke", "--dry-run")
    wanting = [line for line in said.splitlines() if "local_gpus=1" in line]
    assert len(wanting) == (3 + 8 + 12 + 2 + 1 + 1 if asked else 0)


@pytest.mark.parametrize(("given", "left"), [(None, "0"), ("2,1", "2"), ("GPU-a, GPU-b", "GPU-a")])
def test_a_process_that_sees_two_gpus_hides_one_before_it_uses_any(monkeypatch, given, left):
    monkeypatch.delenv(devices.VISIBLE, raising=False)
    if given:
        monkeypatch.setenv(devices.VISIBLE, given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(os.environ.get(devices.VISIBLE, "0,1").split(",")))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: os.environ[devices.VISIBLE] == left)
    assert devices.pick_device("auto") == "cuda", "torch is asked only then"
    assert torch.cuda.device_count() == 1
    assert not torch.cuda.is_initialized()


def test_processes_of_one_training_see_all(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv(devices.VISIBLE, "0,1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    devices.pick_device("auto")
    assert os.environ[devices.VISIBLE] == "0,1"
