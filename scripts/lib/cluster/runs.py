"""Which process leads a run in this folder: written when a run starts, so that a live one is not taken for dead."""

import json
import os
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import psutil

RECORD = Path(".snakemake/head.json")
HEAD_JOB = "TRAJQUANT_HEAD_JOB"  # set by workflow/profiles/slurm/head.sh, which takes SLURM_JOB_ID away
CLOCK = 2  # seconds by which two readings of a process's start may differ, for they depend on the clock's corrections


def claim(slurm: bool, record: Path = RECORD) -> None:
    """Write this process down as the head of the run that starts now; `slurm` says whether it submits jobs there."""
    head = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": start_of(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "slurm_job": os.environ.get(HEAD_JOB),
        "slurm": slurm,
    }
    record.parent.mkdir(exist_ok=True)
    record.write_text(json.dumps(head))


def release(record: Path = RECORD) -> None:
    """The run has ended."""
    record.unlink(missing_ok=True)


def holder(record: Path = RECORD) -> dict | None:
    """The head that was written down last and did not say that it ended; None if there is none, or it was cut off."""
    try:
        return json.loads(record.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def is_alive(head: dict) -> bool | None:
    """Whether a head still runs; None if that cannot be told from this host, or Slurm does not answer."""
    if head["slurm_job"]:
        try:
            return state_of(head["slurm_job"]) in ("PENDING", "RUNNING", "SUSPENDED", "COMPLETING")
        except (OSError, subprocess.SubprocessError):
            return None
    if head["host"] != socket.gethostname():
        return None
    started = start_of(head["process"])
    return started is not None and abs(started - head["started"]) < CLOCK


def describe(head: dict) -> str:
    job = f", Slurm job {head['slurm_job']}" if head["slurm_job"] else ""
    return f"process {head['process']} on {head['host']}{job}, since {head['since']}"


def start_of(process: int) -> float | None:
    """When a process of this host started, in seconds since 1970: process numbers come back, this does not.

    None if it has ended, also if nobody has asked for its exit status yet (a zombie), as in containers without an init.
    """
    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.NoSuchProcess:
        return None


def state_of(job: str) -> str:
    """State of a Slurm job; empty if it has left the queue.

    Raises:
        subprocess.SubprocessError: Slurm does not answer.
    """
    command = ["squeue", "--noheader", "--format=%T", "--jobs", job]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode and "Invalid job id" not in done.stderr:
        raise subprocess.SubprocessError(f"squeue failed: {done.stderr.strip()}")
    return done.stdout.strip()
