"""Starts Snakemake for dry-runs as forks of one process that has imported it: imports are half of a dry-run's time.

It has imported no module of this project: each fork takes those of the tree that it is started in, as a process of its
own does. polars is not among the imports, for it starts threads, which do not outlive a fork.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SLOW = (
    *("snakemake.cli", "snakemake.executors.local", "snakemake_executor_plugin_slurm", "pandas", "jsonschema"),
    *("numpy", "scipy.special", "psutil", "huggingface_hub", "yte"),
)


@cache
def server() -> subprocess.Popen:
    """This file as a process, which ends with the tests'."""
    started = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(started.communicate)
    return started


def dry_run(cwd: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """What `python -m snakemake --dry-run ARGUMENTS` does in a folder, its stderr in its stdout."""
    arguments = ("--dry-run", *arguments)
    with tempfile.NamedTemporaryFile("r") as output:
        place = {"cwd": str(cwd), "env": os.environ | environment, "output": output.name}
        server().stdin.write(json.dumps(place | {"arguments": arguments}) + "\n")
        server().stdin.flush()
        status = json.loads(server().stdout.readline())
        return subprocess.CompletedProcess(arguments, status, stdout=output.read())


def serve() -> None:
    """Fork for each order, and say its exit status when it has ended; returns in each fork, ready to be Snakemake."""
    for module in SLOW:
        importlib.import_module(module)
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            become(order)
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    os._exit(0)


def become(order: dict) -> None:
    """Make this process what `python -m snakemake` in that folder would be."""
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(order["output"], os.O_WRONLY | os.O_APPEND)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.path[0] = order["cwd"]
    sys.argv[1:] = order["arguments"]


if __name__ == "__main__":
    serve()
    runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
