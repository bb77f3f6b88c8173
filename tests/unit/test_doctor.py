"""doctor: what a job that has a GPU tells of it, with the answers of a driver written by hand."""

import json
import os
import subprocess
import sys

import pytest

from scripts.commands.doctor import GPU_PROBE, Broken, describe_gpu

FINE = {"host": "node1", "torch": "2.13.0", "cuda": "13.0", "seen": 1}
FINE |= {"said": ["NVIDIA H100 80GB HBM3", "580.65.06", "Default", "80994", "81559"]}


def said(**changes) -> list[str]:
    """What nvidia-smi says, but for some of it."""
    names = ("name", "driver", "mode", "free", "total")
    return [changes.get(name, value) for name, value in zip(names, FINE["said"], strict=True)]


def test_a_gpu_that_can_be_used():
    about = "NVIDIA H100 80GB HBM3, driver 580.65.06, CUDA 13.0, Default, 79 of 80 GiB free, 1 seen"
    assert describe_gpu(FINE) == f"ran on node1: {about}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cuda": None}, ["without CUDA"]),
        ({"seen": 0, "said": said(driver="535.104.05")}, ["built for CUDA 13.0", "535.104.05", "at least 580"]),
        ({"seen": 0, "said": []}, ["sees no GPU on node1", "the driver is not there"]),
        ({"said": said(mode="Exclusive_Process")}, ["Exclusive_Process", "two processes", "nvidia-smi -c 0"]),
        ({"said": said(free="20000")}, ["20000 of 81559 MiB free"]),
    ],
)
def test_a_gpu_that_cannot_be_used(changes, words):
    with pytest.raises(Broken) as error:
        describe_gpu(FINE | changes)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("driver", [True, False])
def test_what_the_job_asks_its_node(tmp_path, driver):
    """A stand-in for the driver's program, and the torch of this environment."""
    if driver:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho \"$@\" > asked\necho '{', '.join(FINE['said'])}'\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": "3,4"}
    done = subprocess.run(
        [sys.executable, "-c", GPU_PROBE], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout.removeprefix("ran on "))
    assert told.keys() == FINE.keys()
    assert told["said"] == (FINE["said"] if driver else [])
    assert not driver or "-i 3 " in (tmp_path / "asked").read_text()
