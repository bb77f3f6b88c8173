"""Scripts in forks of the server that imported the libraries: like those in a Python of their own, but for the time."""

import os
import signal
import subprocess
import sys
import threading
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
from snakemake.benchmark import BenchmarkRecord

from scripts.lib.cluster import shared_start
from tests.tools import ROOT

TELL = """
import json, os, sys
loaded, tasks = "torch" in sys.modules, len(os.listdir("/proc/self/task"))
import torch
told = [__name__, sys.argv, loaded, tasks, torch.get_num_threads(), os.environ["HF_HUB_OFFLINE"], os.environ["TMPDIR"]]
print(json.dumps([*told, os.getcwd()]), file=open("told", "w"))
"""
HOOK = """
import sys
sys.excepthook = lambda kind, error, trace: print(kind.__name__, error, file=open("told", "w"))
raise ValueError("it is hooked")
"""
END = """
import atexit, sys
atexit.register(lambda: print("at the end", file=open("told", "w")))
sys.exit("a reason")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a server; tests of this file run in it."""
    folder = tmp_path_factory.mktemp("folder")
    before = Path.cwd()
    os.chdir(folder)
    environment = dict(os.environ)
    shared_start.start_server(str(ROOT))
    assert os.environ == environment
    yield folder
    forkserver._forkserver._stop()
    os.chdir(before)


@pytest.fixture
def run(folder):
    """A function that runs a script in a fork of the server."""

    def run_script(code: str, record=None) -> None:
        (folder / "script.py").write_text(code)
        shared_start.run_forked("script.py", str(folder), record)

    return run_script


def test_a_script_runs_as_in_a_python_of_its_own(folder, run):
    run(TELL)
    told = (folder / "told").read_text()
    assert told == f'["__main__", ["script.py"], true, 1, 1, "1", "{folder}", "{folder}"]\n'


def test_the_server_has_no_thread_that_a_fork_would_lose(run):
    run("")
    server = psutil.Process(forkserver._forkserver._forkserver_pid)
    assert shared_start.PRELOADED in " ".join(server.cmdline())
    assert server.num_threads() == 1


def test_everything_could_be_imported(folder, run):
    run("")
    assert "Traceback" not in (folder / shared_start.LOG).read_text()


def test_no_quantization_library_is_in_the_gates_process(run):
    names = ("gptqmodel", "hqq", "bitsandbytes", "llmcompressor", "auto_round", "torchao", "polars")
    run(f"import sys; assert not sys.modules.keys() & set({names})")


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        (HOOK, 1, "ValueError it is hooked\n"),
        (END, 1, "at the end\n"),
        ("import sys; sys.exit(3)", 3, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_failures_fail_the_job(folder, run, code, status, told):
    (folder / "told").write_text("")
    with pytest.raises(subprocess.CalledProcessError) as failed:
        run(code)
    assert failed.value.returncode == status
    assert (folder / "told").read_text() == told
    run("")


def test_jobs_run_side_by_side_and_are_measured(folder):
    records = [BenchmarkRecord() for _ in range(8)]
    (folder / "wait.py").write_text("import time; time.sleep(0.5)")
    jobs = [threading.Thread(target=shared_start.run_forked, args=("wait.py", None, record)) for record in records]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert all(record.running_time >= 0.5 and record.data_collected for record in records)


def test_a_run_of_few_jobs_starts_no_server(monkeypatch):
    monkeypatch.setattr(shared_start, "start_server", lambda root: pytest.fail("started"))
    shared_start.mend(shared_start.FEWEST - 1, str(ROOT))
    assert sys.modules["snakemake.script"].PythonScript.execute_script.__name__ == "execute_script"
