"""Which process leads a run in this folder: written when a run starts, so that a live one is not taken for dead."""

import json
import os
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

RECORD = Path(".snakemake/head.json")
HEAD_JOB = "TRAJQUANT_HEAD_JOB"  # set by workflow/profiles/slurm/head.sh, which takes SLURM_JOB_ID away


def claim(record: Path = RECORD) -> None:
    """Write this process down as the head of the run that starts now."""
    head = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "started": start_of(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "slurm_job": os.environ.get(HEAD_JOB),
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
    return start_of(head["process"]) == head["started"]


def describe(head: dict) -> str:
    job = f", Slurm job {head['slurm_job']}" if head["slurm_job"] else ""
    return f"process {head['process']} on {head['host']}{job}, since {head['since']}"


def start_of(process: int) -> int | None:
    """When a process of this host started, in clock ticks since boot: process numbers come back, this does not.

    None if it has ended, also if nobody has asked for its exit status yet (a zombie), as in containers without an init.
    """
    try:
        fields = fields_of(process)
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def parent_of(process: int) -> int:
    """The process that a process of this host belongs to.

    Raises:
        OSError: there is no such process.
    """
    return int(fields_of(process)[1])


def fields_of(process: int) -> list[str]:
    """What Linux says of a process behind its name, see proc_pid_stat(5): its state, its parent, ...

    Raises:
        OSError: there is no such process.
    """
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


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
