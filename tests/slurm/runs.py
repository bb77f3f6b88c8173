"""Running the workflow under `--profile slurm` on the test cluster, and looking at what it did."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.slurm.cluster import LONG, Cluster, wait_for

# A test polls early; all else is the profile's.
QUICK = (
    "--slurm-init-seconds-before-status-checks",
    "4",
    "--seconds-between-status-checks",
    "4",
    "--latency-wait",
    "10",
)


class Head:
    """A head process: the README's command, started in a tree; its output goes to head-N.txt in that tree.

    `often`: it asks for states every few seconds (`often.py`), for a test that would wait for that.
    """

    def __init__(self, cluster: Cluster, tree: Path, study: str, *arguments: str, site: str = "", often: bool = False):
        self.cluster, self.tree = cluster, tree
        self.output = tree / f"head-{len(list(tree.glob('head-*.txt')))}.txt"
        (tree / "site-of-test.yaml").write_text(site)
        module = "tests.slurm.often" if often else "snakemake"
        command = [*cluster.inside, sys.executable, "-m", module, "--profile", "slurm", *QUICK, *arguments]
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [*command, "--configfile", f"config/studies/{study}.yaml"],
                cwd=tree,
                env=os.environ | {"TRAJQUANT_SITE": "site-of-test.yaml"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self.output.read_text()

    def finish(self, seconds: int = LONG, fails: bool = False) -> str:
        """Wait for the end; returns all that was said."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the head did not end within {seconds} s:\n{self.said[-5000:]}") from None
        assert (self.process.returncode != 0) == fails, self.said[-5000:]
        return self.said

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def jobs(self) -> list[list[str]]:
        """The jobs of this tree that wait or run."""
        return [job for job in self.cluster.jobs() if job[3] == str(self.tree)]

    def seen(self, rule: str, node: str | None = None) -> tuple[str, str] | None:
        """(id, node) of a job that runs now, of a rule, on a node if one is given; an empty rule is any."""
        assert self.process.poll() is None, self.said[-5000:]
        jobs = [job for job in self.jobs() if job[1] == "RUNNING" and f"rule_{rule}" in job[4]]
        return next(((job[0], job[2]) for job in jobs if node in (None, job[2])), None)

    def running(self, rule: str, node: str | None = None) -> tuple[str, str]:
        """The same, waited for as long as the head lives."""
        return wait_for(lambda: self.seen(rule, node), LONG, f"a job of {rule} to run on {node or 'a node'}")


def command(cluster: Cluster, tree: Path, name: str, **environment: str) -> subprocess.CompletedProcess:
    """Run what the Makefile runs for `make recover` or `make doctor`, in a tree."""
    arguments = [*cluster.inside, sys.executable, "-m", f"scripts.commands.{name}"]
    environment = os.environ | environment
    return subprocess.run(
        arguments, cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=LONG
    )


def snapshot(tree: Path) -> dict[str, int]:
    """Time of each finished output, by path: what is made again gets another one. Shared hidden states are none."""
    endings = (".parquet", ".json", ".npy", ".safetensors")
    files = [path for folder in ("resources", "results") for path in (tree / folder).rglob("*")]
    outputs = [path for path in files if path.suffix in endings and tree / "results/hidden" not in path.parents]
    return {str(path.relative_to(tree)): path.stat().st_mtime_ns for path in outputs}


def submissions(said: str) -> int:
    return said.count("has been submitted with SLURM jobid") + said.count("Submitted array job with Snakemake IDs")
