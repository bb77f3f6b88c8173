"""The plugin's faults that cluster/slurm_repair.py repairs, each provoked with a small workflow of its own."""

import pytest

from tests.slurm.cluster import LONG, wait_for
from tests.slurm.runs import Head, submissions
from tests.tools import copy_tree

RULES = """
rule all:
    input: [f"memory-{{number}}.txt" for number in range({jobs})]
rule quantize:
    output: "memory-{{number}}.txt"
    resources: mem_mb=lambda wildcards: 700 + 200 * (int(wildcards.number) % 2), runtime=5
    shell: "scontrol show job $SLURM_JOB_ID | grep -o 'mem=[0-9]*' | head -1 > {{output}}"
"""


@pytest.fixture
def start(slurm, going, tmp_path):
    """A function that starts so many jobs of one rule under the profile, beside the study `few`."""
    tree = copy_tree(tmp_path / "tree")

    def start_jobs(jobs, site=""):
        (tree / "toy.smk").write_text(RULES.format(jobs=jobs))
        return Head(slurm, tree, "smoke", "--snakefile", "toy.smk", site=site)

    return start_jobs


@pytest.mark.full
def test_no_job_is_lost_where_fewer_may_be_queued_than_are_ready(start):
    head = start(3, site="jobs: 1\n")
    head.finish(300)
    assert len(list(head.tree.glob("memory-*.txt"))) == 3


def test_the_tasks_of_an_array_get_what_each_asked_for(start):
    head = start(4)
    assert submissions(head.finish(300)) == 2
    got = {number: int((head.tree / f"memory-{number}.txt").read_text()[4:]) for number in range(4)}
    assert all(700 <= got[number] < 720 for number in (0, 2)), got
    assert all(900 <= got[number] < 920 for number in (1, 3)), got


@pytest.mark.full
def test_an_array_that_is_cancelled_while_it_waits_is_submitted_again(slurm, done, start):
    slurm.ask("scontrol", "update", "nodename=n1,n2", "state=drain", "reason=test")
    head = start(4)
    waiting = wait_for(lambda: [job for job in head.jobs() if "_" in job[0]], LONG, "a waiting array")
    slurm.ask("scancel", waiting[0][0].split("_")[0])
    slurm.ask("scontrol", "update", "nodename=n1,n2", "state=resume")
    head.finish(300)
    assert len(list(head.tree.glob("memory-*.txt"))) == 4
