"""What befalls a run on a cluster: it ends with the same tables, nothing finished is made again, the queue is empty."""

import os
import shutil
import signal
import threading
import time

import pytest
import yaml

from tests.integration.test_kills import processes_with
from tests.slurm.cluster import LONG, wait_for
from tests.slurm.runs import QUICK, Head, command, snapshot
from tests.tools import ROOT, measurements, snakemake

TABLE = "results/tables/faults/measurements.parquet"


@pytest.fixture
def undone(tree):
    """A tree with a study of two cells of which only checkpoints are there; what its table must be; times of files."""
    smoke = yaml.safe_load((tree / "config/studies/smoke.yaml").read_text())
    cells = {"trajectories": ["smoke"], "checkpoints": [40], "methods": ["rtn-w3-g32"], "loss": ["smoke"]}
    smoke["study"] = {"name": "faults", "title": "two cells", "cells": [cells]}
    (tree / "config/studies/faults.yaml").write_text(yaml.safe_dump(smoke))
    snakemake(tree, "faults", TABLE)
    expected = measurements(tree, "faults")
    assert expected.height == 9
    for name in ("quantized", "evaluated", "logs", "tables"):
        shutil.rmtree(tree / "results" / name)
    return tree, expected, snapshot(tree)


def ends_well(undone, head):
    """The same table as without faults; checkpoints were not made again; no job is left."""
    tree, expected, before = undone
    assert measurements(tree, "faults").equals(expected)
    after = snapshot(tree)
    assert {path: after[path] for path in before} == before
    assert not head.jobs()


def made_again(tree, finished):
    """What had been finished at a time and has been made again since."""
    after = snapshot(tree)
    return [path for path in finished if after[path] != finished[path]]


def request(tree, rule, memory="2500", minutes="10"):
    """Set what the first attempt of a rule's jobs asks for; later ones ask for more as they always do."""
    path = tree / "workflow/rules/resources.smk"
    line = f'for each in NEEDS.values():\n    each["{rule}"] = type(each["{rule}"])({memory}, {minutes})\n'
    path.write_text(path.read_text().replace("\n\ndef asks", f"{line}\n\ndef asks", 1))


def stage_process(tree, rule, trajectory, method):
    """Process of a stage's script, once it has opened its log."""
    log = tree / f"results/logs/{rule}/{trajectory}/step-40/{method}"
    log = log.with_suffix(".log") if rule == "quantize" else log / "smoke.log"
    return wait_for(lambda: log.exists() and processes_with(log), LONG, f"{log} to be written")[0]


def stop_when_seen(log):
    """Stop the process that writes a log as soon as there is one, so that its job will be over its time."""
    while not (log.exists() and processes_with(log)):
        time.sleep(0.1)
    os.kill(processes_with(log)[0], signal.SIGSTOP)


def lose_and_return(cluster, node):
    cluster.lose_node(node)
    wait_for(lambda: "DOWN" in cluster.ask("scontrol", "show", "node", node), 60, "a lost node")
    cluster.start_node(node)


def restart_controller(cluster, seconds):
    cluster.stop_controller()
    time.sleep(seconds)
    cluster.start_controller()


def test_one_of_each_kind(slurm, going, undone):
    """In one run, beside the study `few`: a lost node, a cancelled job, the controller restarted, too little memory,
    too little time, and the head killed, recovered and started again."""
    tree = undone[0]
    request(tree, "quantize", memory=500)
    request(tree, "evaluate_loss", memory=1900)  # it may be lost and cancelled, and four times that is on a node
    request(tree, "tabulate", minutes=1)
    head = Head(slurm, tree, "faults", TABLE, often=True)
    watcher = threading.Thread(target=stop_when_seen, args=(tree / "results/logs/tabulate/faults.log",), daemon=True)
    watcher.start()
    lose_and_return(slurm, head.running("evaluate_loss")[1])
    slurm.ask("scancel", head.running("evaluate_loss")[0])
    restart_controller(slurm, 3)
    wait_for(lambda: not (watcher.is_alive() and head.process.poll() is None), LONG, "tabulate to run")
    assert head.process.poll() is None, head.said[-5000:]
    assert "CANCELLED" in head.said, "evaluate_loss was cancelled"
    assert "mem_mb=1000" in head.said, "quantize was killed for its memory"
    wait_for(lambda: "runtime=2\n" in head.said, LONG, "a retry with more time")
    head.running("tabulate")
    head.kill()
    finished = snapshot(tree)
    recovery = command(slurm, tree, "recover")
    assert recovery.returncode == 0, recovery.stderr
    assert "cancelled Slurm jobs" in recovery.stdout
    assert "freed the lock" in recovery.stdout
    assert not head.jobs()
    Head(slurm, tree, "faults", TABLE, often=True).finish()
    assert made_again(tree, finished) == []
    ends_well(undone, head)


# The series: each fault alone.


@pytest.mark.full
def test_a_lost_node(cluster, undone):
    head = Head(cluster, undone[0], "faults", TABLE)
    lose_and_return(cluster, head.running("evaluate_loss")[1])
    head.finish()
    ends_well(undone, head)


@pytest.mark.full
def test_a_cancelled_job(cluster, undone):
    head = Head(cluster, undone[0], "faults", TABLE)
    cluster.ask("scancel", head.running("evaluate_loss")[0])
    head.finish()
    ends_well(undone, head)


@pytest.mark.full
def test_too_little_time(cluster, undone):
    tree = undone[0]
    request(tree, "quantize", minutes=1)
    head = Head(cluster, tree, "faults", TABLE)
    os.kill(stage_process(tree, "quantize", "smoke", "rtn-w3-g32"), signal.SIGSTOP)
    assert "runtime=2\n" in head.finish()
    ends_well(undone, head)


@pytest.mark.full
def test_too_little_memory(cluster, undone):
    request(undone[0], "evaluate_loss", memory=500)
    head = Head(cluster, undone[0], "faults", TABLE)
    assert "mem_mb=1000" in head.finish()
    ends_well(undone, head)


@pytest.mark.full
def test_a_controller_that_is_away(cluster, undone):
    head = Head(cluster, undone[0], "faults", TABLE)
    head.running("quantize")
    restart_controller(cluster, 60)
    head.finish()
    ends_well(undone, head)


@pytest.mark.full
@pytest.mark.parametrize("rule", ["quantize", "evaluate_loss"])
def test_a_killed_head(cluster, undone, rule):
    tree = undone[0]
    head = Head(cluster, tree, "faults", TABLE)
    head.running(rule)
    head.kill()
    finished = snapshot(tree)
    assert command(cluster, tree, "recover").returncode == 0
    assert not cluster.jobs()
    head = Head(cluster, tree, "faults", TABLE)
    head.finish()
    assert made_again(tree, finished) == []
    ends_well(undone, head)


@pytest.mark.full
def test_a_killed_head_whose_jobs_went_on(cluster, undone):
    tree = undone[0]
    head = Head(cluster, tree, "faults", TABLE)
    head.running("quantize")
    head.kill()
    wait_for(lambda: not cluster.jobs(), LONG, "the jobs to end")
    finished = snapshot(tree)
    assert command(cluster, tree, "recover").returncode == 0
    head = Head(cluster, tree, "faults", TABLE)
    head.finish()
    assert made_again(tree, finished) == []
    ends_well(undone, head)


# The head as a Slurm job.


def submit_head(cluster, tree):
    (tree / ".venv").symlink_to(ROOT / ".venv")
    arguments = ["workflow/profiles/slurm/head.sh", "config/studies/faults.yaml", *QUICK, TABLE]
    return cluster.ask("sbatch", "--parsable", "--time=60", f"--chdir={tree}", *arguments, folder=tree).strip()


@pytest.mark.full
def test_a_head_that_is_a_job(cluster, undone):
    tree = undone[0]
    head = submit_head(cluster, tree)
    wait_for(lambda: any("rule_" in job[4] for job in cluster.jobs()), LONG, "the head's first job")
    refusal = command(cluster, tree, "recover")
    assert refusal.returncode == 1
    assert f"Slurm job {head}" in refusal.stderr
    wait_for(lambda: not cluster.jobs(), LONG, "the head to end", step=2)
    assert measurements(tree, "faults").equals(undone[1])


@pytest.mark.full
def test_a_head_job_that_is_interrupted_takes_its_jobs_along(cluster, undone):
    tree = undone[0]
    head = submit_head(cluster, tree)
    wait_for(lambda: any("rule_" in job[4] for job in cluster.jobs()), LONG, "the head's first job")
    cluster.ask("scancel", "--signal=INT", "--batch", head)
    wait_for(lambda: not cluster.jobs(), LONG, "all jobs to end", step=1)
    assert "Terminating processes on user request" in next(tree.glob("trajquant-head-*.log")).read_text()
    assert not (tree / TABLE).exists()
    Head(cluster, tree, "faults", TABLE).finish()
    assert measurements(tree, "faults").equals(undone[1])
