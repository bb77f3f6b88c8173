"""What a cluster adds: `python -m tests.benchmarks.slurm` runs the smoke study locally and on two one-core Slurm nodes.

It takes ten minutes and needs root on Debian; see tests/slurm/cluster.py.
"""

import tempfile
import threading
import time
from pathlib import Path

import polars

from tests.slurm.cluster import Cluster, install
from tests.slurm.runs import Head, submissions
from tests.tools import copy_tree, snakemake

TIMES = ("job", "submitted", "started", "ended", "rule")


def watch(cluster: Cluster, stop: threading.Event, found: dict[str, tuple]) -> None:
    """Collect the times of all jobs, which Slurm forgets after five minutes, until told to stop."""
    while not stop.wait(20):
        listing = cluster.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%V|%S|%e|%k")
        found |= {line.split("|")[0]: tuple(line.split("|")) for line in listing.splitlines()}


def slurm_run(cluster: Cluster, folder: Path) -> dict[str, float]:
    """The smoke study on the cluster: seconds in all, jobs and submissions, seconds of a job and of its stage alone."""
    tree = copy_tree(folder)
    stop, found = threading.Event(), {}
    watcher = threading.Thread(target=watch, args=(cluster, stop, found))
    watcher.start()
    start = time.monotonic()
    head = Head(cluster, tree, "smoke")
    head.process.wait()
    seconds = time.monotonic() - start
    time.sleep(25)
    stop.set()
    watcher.join()
    assert head.process.returncode == 0, head.said[-3000:]
    return {"seconds": seconds, "submissions": submissions(head.said), "jobs": len(found)} | overhead(tree, found)


def overhead(tree: Path, found: dict[str, tuple]) -> dict[str, float]:
    """Mean seconds of a job on its node besides its stage (two Snakemakes starting), over the stages that are timed."""
    jobs = polars.DataFrame(list(found.values()), schema=TIMES, orient="row").with_columns(
        polars.col("submitted", "started", "ended").str.to_datetime(),
        polars.col("rule").str.extract(r"rule_(\w+?)_wild"),
    )
    timed = {path.name: list(path.rglob("*.tsv")) for path in (tree / "results/benchmarks").iterdir()}
    jobs = jobs.filter(polars.col("rule").is_in([name for name, files in timed.items() if files]))
    own = [float(file.read_text().splitlines()[1].split()[0]) for name in set(jobs["rule"]) for file in timed[name]]
    held = (jobs["ended"] - jobs["started"]).dt.total_seconds()
    return {"timed jobs": jobs.height, "held": held.mean(), "stage": sum(own) / len(own)}


def local_run(folder: Path) -> dict[str, float]:
    """The smoke study on this machine, two jobs at once."""
    tree = copy_tree(folder)
    start = time.monotonic()
    snakemake(tree, "smoke")
    return {"seconds": time.monotonic() - start}


def main() -> None:
    install()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        print("local, two jobs at once:", local_run(scratch / "local"), flush=True)
        cluster = Cluster(scratch / "slurm", cores=1).start()
        try:
            print("Slurm, two one-core nodes:", slurm_run(cluster, scratch / "slurm-run"), flush=True)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
