"""kill -9 in the middle of each stage's job: the next run finishes, and its measurements equal an undisturbed run's."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.tools import command, copy_tree, measurements, snakemake

STUDY = {
    "study": {
        "name": "killed",
        "title": "one cell of each kind",
        "cells": [
            {
                "trajectories": ["smoke-cooldown"],
                "checkpoints": [40],
                "methods": ["nf4"],
                "loss": ["smoke"],
                "tasks": ["smoke"],
            }
        ],
    }
}
CELL = "smoke-cooldown/step-40"
# For each stage what to ask for, and what its job prints once it is in the midst of its work, past its imports.
STAGES = {
    "train": (f"resources/checkpoints/{CELL}/manifest.json", "Writing model shards"),
    "quantize": (f"results/quantized/{CELL}/nf4/manifest.json", "Loading weights"),
    "evaluate_loss": (f"results/evaluated/{CELL}/nf4/loss-smoke.parquet", "Loading weights"),
    "evaluate_tasks": (f"results/evaluated/{CELL}/nf4/tasks-smoke.parquet", "Loading weights"),
}
TABLE = "results/tables/killed/measurements.parquet"


def write_study(tree: Path) -> None:
    """The study of one cell, with the smoke study's own corpus and settings."""
    smoke = yaml.safe_load((tree / "config/studies/smoke.yaml").read_text())
    (tree / "config/studies/killed.yaml").write_text(yaml.safe_dump(smoke | STUDY))


def kill_one_job(tree: Path, rule: str) -> None:
    """Start the workflow, wait until a job of a rule is in the middle of its work, and kill -9 that job's process."""
    target, working = STAGES[rule]
    run = subprocess.Popen(
        command("killed", target), cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    logs = tree / "results/logs" / rule
    try:
        while True:
            busy = [path for path in logs.rglob("*.log") if working in path.read_text()]
            jobs = [job for path in busy for job in processes_with(path)]
            if jobs:
                os.kill(jobs[0], signal.SIGKILL)
                break
            assert run.poll() is None, run.stdout.read().decode()[-3000:]
            time.sleep(0.02)
        run.communicate()
        assert run.returncode != 0
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)


def processes_with(log: Path) -> list[int]:
    """Processes that write to a log file: the job itself."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (folder / "fd/1").samefile(log):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


@pytest.mark.full  # jobs and a head are killed every day in tests/slurm/test_faults.py
def test_measurements_survive_a_kill_in_every_stage(tree, tmp_path):
    write_study(tree)
    snakemake(tree, "killed", TABLE)
    disturbed = copy_tree(tmp_path / "disturbed")
    write_study(disturbed)
    for rule in STAGES:
        kill_one_job(disturbed, rule)
    snakemake(disturbed, "killed", TABLE)
    assert measurements(disturbed, "killed").equals(measurements(tree, "killed"))
    assert not measurements(tree, "killed").is_empty()
