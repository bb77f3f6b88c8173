"""Jobs of one machine share one start of Python: their scripts run in forks of a process that imported the libraries.

Snakemake 9.27.1 starts a Python anew for each script, and importing torch, transformers and the like took most of a
small job's time. Here the server of Python's own `multiprocessing` (start method forkserver) imports them once, in
preloaded.py, and forks for each job. A job still is a process, with its own log, benchmark, exit status and retries.

What goes on as before, in a Python of its own: jobs of more than one thread, for numerical libraries read how many they
may start when they are loaded; jobs that fetch, for the hub's client reads then whether there is a network; jobs in
conda environments, containers or modules; all on a machine with a GPU, which a forked process cannot use if its parent
asked for it; and all on a cluster.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from contextlib import nullcontext
from multiprocessing import forkserver
from multiprocessing.connection import wait

import psutil
from snakemake.benchmark import benchmarked
from snakemake.script import PythonScript

PRELOADED = "scripts.lib.cluster.preloaded"
LOG = ".snakemake/log/imports.log"  # what libraries say as they are imported
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
OF_LIBRARIES = ("OMP", "GOTO", "OPENBLAS", "MKL", "NUMEXPR")
ONE_THREAD = dict.fromkeys([*(f"{name}_NUM_THREADS" for name in OF_LIBRARIES), "VECLIB_MAXIMUM_THREADS"], "1")
NO_THREAD_OF_ARROW = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}  # its allocator's, from the import on
FEWEST = 3  # jobs that load models or tokenize: for fewer a server is not worth its start
CONTEXT = multiprocessing.get_context("forkserver")
TALK = threading.Lock()  # two threads that ask for the same process's end would take it from each other


def has_gpu() -> bool:
    return os.path.exists("/dev/nvidiactl")


def mend(jobs: int, root: str) -> None:
    """Repair the local executor in this process.

    Args:
        jobs: how many of the run load models or tokenize.
        root: folder of the workflow.
    """
    if jobs >= FEWEST:
        start_server(root)
        PythonScript.execute_script = _forked(PythonScript.execute_script)


def start_server(root: str) -> None:
    """Start the server, with the environment that libraries read as they are imported."""
    before = dict(os.environ)
    path = os.pathsep.join(filter(None, (root, before.get("PYTHONPATH"))))
    os.environ.update(ONE_THREAD | OFFLINE | NO_THREAD_OF_ARROW, PYTHONPATH=path)
    try:
        CONTEXT.set_forkserver_preload([PRELOADED])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _forked(execute_script):
    """PythonScript.execute_script, with a fork where that is the same as a new Python."""

    def execute(self, fname: str, edit: bool = False) -> None:
        elsewhere = self.conda_env or self.container_img or self.env_modules or self.shadow_dir
        if elsewhere or self.threads > 1 or self.resources.get("downloads"):
            execute_script(self, fname, edit)
        else:
            run_forked(fname, self.resources.get("tmpdir"), self.bench_record)

    return execute


def run_forked(script: str, temporary: str | None, record) -> None:
    """Run a script in a process of its own, forked from the server, and wait for its end.

    Args:
        script: its path.
        temporary: folder for temporary files; None for the usual one.
        record: Snakemake's record of the job's benchmark; None if it has none.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    places = dict.fromkeys(("TMPDIR", "TMP", "TEMPDIR", "TEMP"), temporary) if temporary else {}
    process = CONTEXT.Process(target=_run, args=(script, {**os.environ, **ONE_THREAD, **OFFLINE, **places}))
    with TALK:
        process.start()
    try:
        with benchmarked(process.pid, record) if record is not None else nullcontext():
            wait([process.sentinel])
    except psutil.NoSuchProcess:  # it ended before anything could be measured
        record.running_time, record.process_gone = 0.0, True
    with TALK:
        process.join()
    status = process.exitcode
    process.close()
    if status:
        raise subprocess.CalledProcessError(status, f"{sys.executable} {script}")


def _run(script: str, environment: dict[str, str]) -> None:
    """In the forked process: what `python script` does."""
    for name in ("PYTHONPATH", *NO_THREAD_OF_ARROW):  # as it was set for the server
        os.environ.pop(name, None)
    os.environ.update(environment)
    tempfile.tempdir = None  # the server's
    sys.argv = [script]
    sys.path.insert(0, os.path.dirname(script))
    status = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    atexit._run_exitfuncs()
    sys.exit(status)
