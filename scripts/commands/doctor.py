"""make doctor: is this clone ready for its cluster? One line a check; what to do stands after `fix`."""

import contextlib
import fcntl
import functools
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scripts.lib.cluster import runs
from scripts.lib.cluster.cluster_site import gpu_request, load_site, site_file
from scripts.lib.cluster.slurm_repair import accounting
from scripts.lib.runtime.config_files import ConfigError

LOCKS = ("envs/trajquant.lock", "envs/slurm.lock")
ENOUGH_SECONDS = 240  # a finished job must stay visible so long where there is no accounting: polls are 180 s apart
PROBE = """
import os, shutil, socket, tempfile
import torch
folder = tempfile.mkdtemp(dir={scratch!r})
free = shutil.disk_usage(folder).free / 1e9
print(f"ran on {{socket.gethostname()}}, {{free:.0f}} GB free in {{os.path.dirname(folder)}}")
os.rmdir(folder)
"""
GPU_PROBE = """
import json, os, socket, subprocess
import torch
mine = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
asked = "--query-gpu=name,driver_version,compute_mode,memory.free,memory.total"
command = ["nvidia-smi", "--format=csv,noheader,nounits", "-i", mine, asked]
try:
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(", ")
except (OSError, subprocess.SubprocessError):
    said = []
seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
told = {"host": socket.gethostname(), "torch": torch.__version__, "cuda": torch.version.cuda}
print("ran on " + json.dumps(told | {"seen": seen, "said": said}))
"""
OLDEST_DRIVERS = {"12": 525, "13": 580}  # of a build of torch for this CUDA: NVIDIA's tables of compatibility
FREE = 0.9  # of a GPU's memory, where nobody else is on it


class Broken(Exception):
    """A check failed; the text says what to do."""


def versions() -> str:
    """The environment holds what the lock files pin."""
    pins = [line.split("==") for lock in LOCKS for line in Path(lock).read_text().splitlines() if "==" in line]
    pins = [(name, version) for name, version in pins if not name.startswith("#")]
    wrong = [name for name, version in pins if installed(name).split("+")[0] != version]
    if wrong:
        raise Broken(f"{len(wrong)} packages differ from the lock ({', '.join(wrong[:3])} ...): run `make setup`")
    return f"{len(pins)} packages as pinned, Python {sys.version.split()[0]}"


def installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def scheduler() -> str:
    """Slurm's commands are there and its controller answers."""
    missing = [name for name in ("sbatch", "squeue", "scancel", "scontrol", "sinfo") if not shutil.which(name)]
    if missing:
        raise Broken(f"{', '.join(missing)} not found: run this on a login node, or load the cluster's Slurm module")
    age = re.search(r"MinJobAge\s*=\s*(\d+)", slurm("scontrol", "show", "config"))
    if not age:
        raise Broken("`scontrol show config` does not say MinJobAge: is this Slurm?")
    if not accounting() and int(age[1]) < ENOUGH_SECONDS:
        raise Broken(f"no accounting, and jobs leave squeue after {age[1]} s: ask for MinJobAge >= {ENOUGH_SECONDS}")
    version = slurm("sinfo", "--version").strip()
    return f"{version} answers, {'with' if accounting() else 'no'} accounting, ended jobs are seen for {age[1]} s"


def partitions(site: dict) -> str:
    """The site's partitions exist and are up; one is the default if none is named."""
    rows = [line.split("|") for line in slurm("sinfo", "--noheader", "--format=%P|%a|%l|%D").splitlines()]
    known = {row[0].rstrip("*"): row for row in rows}
    wanted = [name for key in ("partition", "gpu_partition") if key in site for name in site[key].split(",")]
    wanted = wanted or [name.rstrip("*") for name in (row[0] for row in rows) if name.endswith("*")]
    if not wanted:
        raise Broken(f"no default partition: set `partition` in the site file to one of {', '.join(known)}")
    for name in wanted:
        if name not in known or known[name][1] != "up":
            raise Broken(f"partition `{name}` is not there or not up: choose from {', '.join(known)}")
    return "; ".join(f"{name}: {known[name][3]} nodes, at most {known[name][2]}" for name in wanted)


def has_gpus() -> bool:
    """Whether a node has one that Slurm knows of."""
    return "gpu" in slurm("sinfo", "--noheader", "--format=%G")


def gpus(site: dict) -> str:
    """Which forms of asking for a GPU sbatch takes."""
    if not has_gpus():
        return "no node has a GPU: studies run with `compute: {device: cpu}`"
    forms = {form: gpu_request({**site, "gpu_request": form}) for form in ("gpus", "gres")}
    taken = [form for form, asked in forms.items() if sbatch_takes([*options(site), *gpu_options(asked)])]
    chosen = site.get("gpu_request", "gpus")
    if chosen not in taken:
        raise Broken(f"sbatch does not take the form `{chosen}`: set `gpu_request` to {taken or 'neither?'}")
    return f"taken: {' and '.join(taken)}; used: {chosen}"


def locks() -> str:
    """Files of the shared folder can be locked: a folder's own lock, and caches, need that."""
    with tempfile.NamedTemporaryFile(dir=".snakemake") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Broken(f"files here cannot be locked ({error}): move the clone to one that locks") from error
    return f"files in {Path.cwd()} can be locked"


def storage() -> str:
    """There is room where results go, and in the caches' folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    free = {path: shutil.disk_usage(path).free / 1e9 for path in (Path.cwd(), cache) if path.exists()}
    full = [str(path) for path, size in free.items() if size < 5]
    if full:
        raise Broken(f"less than 5 GB free in {' and '.join(full)}: set `folders`, or XDG_CACHE_HOME, to a larger one")
    return ", ".join(f"{size:.0f} GB free in {path}" for path, size in free.items())


def head() -> str:
    """No dead run holds the folder."""
    last = runs.holder()
    alive = runs.is_alive(last) if last else False
    if alive or alive is None:
        return f"{'a run is going on' if alive else 'there is or was a run'}: {runs.describe(last)}"
    if last or any(Path(".snakemake/locks").glob("*")):
        raise Broken("the last run was killed: run `make recover`")
    return "no run is going on"


def probe(site: dict, timeout: int) -> str:
    """One short job starts, sees this folder and its environment, and can write to the node's scratch folder."""
    scratch = os.path.expandvars(site["scratch"]) if "scratch" in site else None
    said, seconds = run_job(PROBE.format(scratch=scratch), options(site), timeout)
    return f"{said}; queued, started and seen to end in {seconds:.0f} s"


def gpu_node(site: dict, timeout: int) -> str:
    """A job that asks for a GPU has one that this environment can use, from two processes, with its memory free."""
    if not has_gpus():
        return "no node has a GPU"
    said, seconds = run_job(GPU_PROBE, [*options(site), *gpu_options(gpu_request(site))], timeout)
    return f"{describe_gpu(json.loads(said.removeprefix('ran on ')))}; seen to end in {seconds:.0f} s"


def describe_gpu(told: dict) -> str:
    """What a job found out about its GPU, as a line.

    Args:
        told: host; torch, cuda (versions; None of a build without CUDA); seen (GPUs by torch); said (by nvidia-smi of
            the job's first GPU: name, driver, compute mode, free and whole memory in MiB; empty without an answer).

    Raises:
        Broken: studies with `compute: {device: cuda}` would fail there.
    """
    build = f"torch {told['torch']}"
    if told["cuda"] is None:
        raise Broken(f"{build} is built without CUDA: make the environment with a build for your GPUs' driver")
    name, driver, mode, free, total = told["said"] or ("no GPU", "not there", "Default", "0", "0")
    if not told["seen"]:
        oldest = OLDEST_DRIVERS.get(told["cuda"].split(".")[0], "a newer one")
        raise Broken(
            f"{build}, built for CUDA {told['cuda']}, sees no GPU on {told['host']}; the driver is {driver}, and has to"
            f" be at least {oldest}: ask for that, or install a build for an older CUDA; device `cpu` runs"
        )
    if mode in ("Exclusive_Process", "Prohibited"):
        raise Broken(
            f"the GPU of {told['host']} is in compute mode {mode}, and quantizing and its check are two processes on "
            "one GPU: ask for mode Default (nvidia-smi -c 0)"
        )
    if float(free) < FREE * float(total):
        raise Broken(f"the GPU of {told['host']} has {free} of {total} MiB free: others use it; ask for one alone")
    sizes = f"{float(free) / 1024:.0f} of {float(total) / 1024:.0f} GiB free"
    return f"ran on {told['host']}: {name}, driver {driver}, CUDA {told['cuda']}, {mode}, {sizes}, {told['seen']} seen"


def run_job(code: str, asked: list[str], timeout: int) -> tuple[str, float]:
    """Run Python code in a short job; what it prints, which begins with "ran on", and the seconds until it was over.

    Raises:
        Broken: Slurm refuses it, or it fails or is not seen to end in time.
    """
    output = Path(tempfile.mkdtemp(dir=".snakemake", prefix="doctor-")).resolve()
    short = ["sbatch", "--parsable", "--time=5", "--mem=2500", "--ntasks=1", f"--output={output / 'log'}"]
    step = "env -u SLURM_CONF srun --ntasks=1 true"  # as the plugin starts a job's step
    script = f"#!/bin/sh\n{step} && {sys.executable} - <<'EOF'\n{code}\nEOF\n"
    done = subprocess.run([*short, *asked], input=script, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Broken(f"sbatch refuses: {done.stderr.strip()}; correct the site file")
    job = done.stdout.strip().split(";")[0]
    with cancelled_at_exit(job):
        seconds = wait_for(job, timeout)
    log = output / "log"
    for _ in range(30):  # a shared file system shows a node's files late
        if log.is_file():
            break
        time.sleep(1)
    said = log.read_text() if log.is_file() else "its log is not to be seen: a clone must be on a shared file system"
    shutil.rmtree(output)
    if not said.startswith("ran on"):
        raise Broken(f"the probe job failed: {said.strip().splitlines()[-1]}")
    return said.strip(), seconds


@contextlib.contextmanager
def cancelled_at_exit(job: str) -> Iterator[None]:
    """However this ends, the job does not stay in the queue."""
    try:
        yield
    finally:
        if runs.state_of(job) in ("PENDING", "RUNNING"):
            slurm("scancel", job)


def wait_for(job: str, timeout: int) -> float:
    start = time.monotonic()
    while runs.state_of(job) in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
        if time.monotonic() - start > timeout:
            reason = slurm("squeue", "--noheader", "--format=%T, %r", "--jobs", job).strip()
            raise Broken(f"the probe job did not end within {timeout} s ({reason}): a full queue, or a wrong partition")
        time.sleep(1)
    return time.monotonic() - start


def options(site: dict) -> list[str]:
    """Options of sbatch that the site file asks for."""
    names = ("account", "partition", "qos", "constraint", "reservation")
    return [f"--{name}={site[name]}" for name in names if name in site] + shlex.split(site.get("extra", ""))


def gpu_options(request: dict) -> list[str]:
    partition = [f"--partition={request['slurm_partition']}"] if "slurm_partition" in request else []
    if "gres" in request:
        return [f"--gres={request['gres']}", "--cpus-per-task=1", *partition]
    kind = f"{request['gpu_model']}:" if "gpu_model" in request else ""
    return [f"--gpus={kind}1", "--cpus-per-task=1", *partition]


def sbatch_takes(arguments: list[str]) -> bool:
    command = ["sbatch", "--test-only", "--time=5", *arguments, "--wrap=true"]
    return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0


def slurm(*command: str) -> str:
    """Output of a Slurm command, or Broken if it fails or does not answer."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except subprocess.SubprocessError as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise Broken(f"`{' '.join(command)}` fails: {str(reason).strip()}; is Slurm up?") from error


def settings() -> str:
    """The site file can be read."""
    return f"{site_file()} sets {', '.join(load_site()) or 'nothing'}"


def examine(timeout: int) -> bool:
    """Print a line for each check; True if nothing has to be fixed. Without site file or Slurm the rest is left out."""
    Path(".snakemake").mkdir(exist_ok=True)
    here = {"environment": versions, "file locks": locks, "storage": storage, "head": head}
    fine = [report(name, check) for name, check in here.items()]
    if not all([report("site file", settings), report("scheduler", scheduler)]):
        return False
    site = load_site()
    there = {"partitions": partitions, "GPU requests": gpus}
    fine += [report(name, functools.partial(check, site)) for name, check in there.items()]
    jobs = {"probe job": probe, "GPU node": gpu_node}
    return all([*fine, *(report(name, functools.partial(job, site, timeout)) for name, job in jobs.items())])


def report(name: str, check: Callable[[], str]) -> bool:
    """Print the line of one check; False if something has to be fixed."""
    try:
        print(f"ok   {name}: {check()}", flush=True)
    except (Broken, ConfigError) as error:
        print(f"fix  {name}: {error}", flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(0 if examine(int(os.environ.get("DOCTOR_TIMEOUT", "300"))) else 1)
