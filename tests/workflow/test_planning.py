"""Planning a large study: no file is read once per job (but Snakemake's own cached copy of a script)."""

import json
import subprocess

import pytest

from tests.benchmarks.planning import large_study, plan_command
from tests.tools import job_counts

COUNT = """
import collections, json, runpy, sys
opened = collections.Counter()
def count(event, given):
    if event == "open" and not isinstance(given[0], int) and "source-cache" not in str(given[0]):  # names, not numbers
        opened[str(given[0])] += 1
sys.addaudithook(count)
try:
    runpy.run_module("snakemake", run_name="__main__", alter_sys=True)
finally:
    print("OPENED", json.dumps(opened.most_common(3)))
"""


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """What the dry-run of 50 checkpoints x 10 methods prints, and the files that it opened most often."""
    tree = large_study(tmp_path_factory.mktemp("large") / "tree", 50)
    done = subprocess.run(plan_command("-c", COUNT), cwd=tree, capture_output=True, text=True, check=True)
    text, _, opened = done.stdout.partition("OPENED ")
    return text, json.loads(opened)


def test_the_jobs_are_all_there(plan):
    jobs = job_counts(plan[0])
    assert (jobs["publish"], jobs["quantize"], jobs["evaluate_loss"], jobs["evaluate_tasks"]) == (50, 450, 500, 500)


def test_no_file_is_opened_once_per_job(plan):
    assert plan[1][0][1] < 50, plan[1]
