"""Recover, where there is no Slurm: real leftover processes end, others do not, and a live head is left alone."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from scripts.commands import recover as command
from scripts.lib.cluster import runs
from tests.tools import ROOT

SLEEP = "import time; time.sleep(600)"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "leftover_jobs", lambda folder: [])
    (tmp_path / ".snakemake/scripts").mkdir(parents=True)
    (tmp_path / ".snakemake/scripts/tmp1.train.py").write_text(SLEEP)
    (tmp_path / "notes-on-snakemake.py").write_text(SLEEP)
    return tmp_path


@pytest.fixture
def start(folder):
    """A function that starts a Python process in a folder."""
    started = []

    def start_process(*arguments, cwd=folder):
        started.append(subprocess.Popen([sys.executable, *arguments], cwd=cwd))
        time.sleep(0.3)
        return started[-1]

    yield start_process
    for process in started:
        process.kill()
        process.wait()


def test_jobs_of_this_folder_end_and_the_lock_is_freed(folder, start, tmp_path_factory):
    job = start(".snakemake/scripts/tmp1.train.py")
    reader = start("notes-on-snakemake.py")
    elsewhere = tmp_path_factory.mktemp("other")
    other = start(f"{folder}/.snakemake/scripts/tmp1.train.py", cwd=elsewhere)
    (folder / ".snakemake/locks").mkdir()
    (folder / ".snakemake/locks/0.output.lock").write_text("x")
    done = command.recover(folder)
    assert job.wait(10) != 0
    assert (reader.poll(), other.poll()) == (None, None)
    assert not list((folder / ".snakemake").glob("locks/*"))
    assert done == [f"ended process {job.pid}", "freed the lock"]
    assert command.recover(folder) == []


def test_children_of_a_job_end_with_it(folder, start):
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"
    (folder / ".snakemake/scripts/tmp2.report.py").write_text(code)
    start(".snakemake/scripts/tmp2.report.py")
    assert len(command.leftover_processes(folder)) == 2
    command.recover(folder)
    assert command.leftover_processes(folder) == []


def test_jobs_that_a_dead_head_forked_end(folder, start, monkeypatch):
    """The server that they come from ends with the last of them."""
    code = f"""from scripts.lib.cluster import shared_start
if __name__ == "__main__":
    shared_start.start_server({str(ROOT)!r})
    shared_start.run_forked('.snakemake/scripts/tmp1.train.py', None, None)"""
    (folder / "head.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    head = start("head.py")
    while head.poll() is None and len(command.leftover_processes(folder)) < 2:
        time.sleep(0.1)
    head.kill()
    head.wait()
    server, job = command.leftover_processes(folder)
    assert f"ended process {job}" in command.recover(folder)
    assert command.leftover_processes(folder) == []
    assert not psutil.pid_exists(server) or psutil.Process(server).status() == psutil.STATUS_ZOMBIE


def test_a_live_head_is_left_alone(folder):
    runs.claim(False, folder / runs.RECORD)
    (folder / ".snakemake/locks").mkdir()
    (folder / ".snakemake/locks/0.output.lock").write_text("x")
    with pytest.raises(RuntimeError, match="a run is going on: process"):
        command.recover(folder)
    assert list((folder / ".snakemake").glob("locks/*"))


def test_a_snakemake_that_still_plans_is_left_alone(folder, start):
    (folder / "snakemake").mkdir()
    (folder / "snakemake/__main__.py").write_text(SLEEP)
    planning = start("-m", "snakemake", "--profile", "slurm")
    with pytest.raises(RuntimeError, match=f"Snakemake runs in this folder, process {planning.pid}"):
        command.recover(folder)
    assert planning.poll() is None


def test_a_head_on_another_host_is_left_alone(folder, monkeypatch):
    runs.claim(False, folder / runs.RECORD)
    monkeypatch.setattr(runs.socket, "gethostname", lambda: "here")
    with pytest.raises(RuntimeError, match=r"cannot be seen from this host; run `make recover` there.*head\.json"):
        command.recover(folder)


@pytest.fixture
def silent_slurm(monkeypatch, tmp_path_factory):
    """Slurm's client is installed, and no controller answers it."""
    programs = tmp_path_factory.mktemp("programs")
    (programs / "squeue").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2\nexit 1\n")
    (programs / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")


@pytest.mark.parametrize("slurm", [False, True])
def test_only_a_run_on_slurm_needs_its_answer(tmp_path, silent_slurm, slurm):
    code = f"from scripts.lib.cluster import runs; runs.claim({slurm})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    (tmp_path / ".snakemake").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    if slurm:
        with pytest.raises(RuntimeError, match="Slurm does not answer, so nothing was done: Unable to contact"):
            command.recover(tmp_path)
    else:
        assert command.recover(tmp_path) == []
    assert (tmp_path / runs.RECORD).exists() == slurm
