"""make recover: after the head of a run died, end what it left behind in this folder, so that the run can go on."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from scripts.lib.cluster import runs
from scripts.lib.cluster.shared_start import PRELOADED

WAIT = 120
OF_JOBS = rf"\.snakemake/scripts/|{re.escape(PRELOADED)}"  # a Python of its own, or forked from the server of jobs
OF_SNAKEMAKE = re.compile(rf"bin/snakemake |-m snakemake |snakemake/__main__\.py |{OF_JOBS}")


def recover(folder: Path) -> list[str]:
    """End leftover processes and Slurm jobs of a folder and free its lock.

    Args:
        folder: root of the clone.

    Returns:
        What was done, a line each.

    Raises:
        RuntimeError: a head is alive, or it cannot be told from here; nothing was done.
    """
    refuse_if_alive(folder / runs.RECORD)
    running = [process for process, command in processes_in(folder).items() if "--mode" not in command]
    if running:
        raise RuntimeError(
            f"Snakemake runs in this folder, process {running[0]}; let it end, or stop it (Ctrl-C, kill)"
        )
    done = []
    head = runs.holder(folder / runs.RECORD) or {}
    jobs = leftover_jobs(folder) if head.get("slurm", True) else []  # where it is not known, Slurm is asked
    if jobs:
        subprocess.run(["scancel", *jobs], timeout=WAIT, check=True)
        wait_until_gone(folder)
        done.append(f"cancelled Slurm jobs {', '.join(jobs)}")
    for process in leftover_processes(folder):
        stop(process)
        done.append(f"ended process {process}")
    if any((folder / ".snakemake/locks").glob("*")):
        unlock = [sys.executable, "-m", "snakemake", "--snakefile", os.devnull, "--unlock", "--quiet", "all"]
        subprocess.run(unlock, cwd=folder, check=True)
        done.append("freed the lock")
    runs.release(folder / runs.RECORD)
    return done


def refuse_if_alive(record: Path) -> None:
    """Raise RuntimeError if the folder's head lives, or may live on another host."""
    head = runs.holder(record)
    if head is None:
        return
    alive = runs.is_alive(head)
    if alive:
        raise RuntimeError(f"a run is going on: {runs.describe(head)}; let it end, or stop it there (Ctrl-C, kill)")
    if alive is None:
        raise RuntimeError(
            f"the last head was {runs.describe(head)}, which cannot be seen from this host; run `make recover` there. "
            f"If that host is gone, delete {record} first"
        )


def processes_in(folder: Path) -> dict[int, str]:
    """Command lines of Snakemake's processes in a folder on this host, by number. Its jobs have `--mode` in theirs, are
    one of its scripts, or of the server that scripts are forked from; it runs all of them in the folder itself."""
    found = {}
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command, where = " ".join([*(process.info["cmdline"] or []), ""]), process.info["cwd"]
        if OF_SNAKEMAKE.search(command) and where == str(folder.resolve()):
            found[process.pid] = "--mode script" if re.search(OF_JOBS, command) else command
    return found


def leftover_processes(folder: Path) -> list[int]:
    """Snakemake's processes in a folder on this host, and all that they have started."""
    found = set(processes_in(folder))
    for process in sorted(found):
        try:
            found |= {child.pid for child in psutil.Process(process).children(recursive=True)}
        except psutil.NoSuchProcess:
            continue
    return sorted(found)


def stop(process: int) -> None:
    """SIGTERM, and SIGKILL after ten seconds."""
    started = runs.start_of(process)
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        end = time.monotonic() + seconds
        while runs.start_of(process) == started and time.monotonic() < end:
            try:
                os.kill(process, number)
            except ProcessLookupError:
                return
            time.sleep(0.5)


def leftover_jobs(folder: Path) -> list[str]:
    """Slurm jobs of this user that Snakemake submitted from a folder; none where there is no Slurm."""
    if not shutil.which("squeue"):
        return []
    command = ["squeue", "--me", "--noheader", "--format=%A|%Z|%k"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)
    if done.returncode:
        raise RuntimeError(f"Slurm does not answer, so nothing was done: {done.stderr.strip()}")
    rows = [line.split("|", 2) for line in done.stdout.splitlines()]
    here = [job for job, where, comment in rows if comment.startswith("rule_") and Path(where) == folder.resolve()]
    return sorted(set(here), key=int)


def wait_until_gone(folder: Path) -> None:
    end = time.monotonic() + WAIT
    while leftover_jobs(folder):
        if time.monotonic() > end:
            raise RuntimeError(f"cancelled jobs are still in the queue after {WAIT} s; see `squeue --me`")
        time.sleep(1)


def main() -> None:
    try:
        done = recover(Path.cwd())
    except RuntimeError as error:
        sys.exit(f"recover: {error}")
    print("\n".join(done) or "nothing was left behind")
    print("Now start the same snakemake command again: it goes on from what is finished.")


if __name__ == "__main__":
    main()
