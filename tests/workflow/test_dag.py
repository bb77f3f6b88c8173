"""The fault of Snakemake's graph that cluster/dag_repair.py repairs, with and without the repair."""

import subprocess
import sys

import pytest

from tests.tools import ROOT, job_counts

# What waits for `room` is not made again when that is, but for what else is missing behind it.
WORKFLOW = f"""
import sys
sys.path.insert(0, "{ROOT}")
from scripts.lib.cluster import dag_repair

if config["mend"]:
    dag_repair.mend()

rule all:
    input: "measured-one", *(["measured-two"] if config["more"] else [])

rule room:
    output: touch("room")
    params: before=config["more"]

rule fetch:
    input: ancient("room")
    output: touch("fetched")

rule measure:
    input: "fetched"
    output: touch("measured-{{part}}")
"""


@pytest.mark.parametrize("mend", [pytest.param(False, marks=pytest.mark.full), True])
def test_what_is_missing_behind_an_ancient_input_is_made(tmp_path, mend):
    (tmp_path / "Snakefile").write_text(WORKFLOW)

    def run(*arguments):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    run("--config", f"mend={mend}", "more=False")
    done = run("--dry-run", "--config", f"mend={mend}", "more=True")
    jobs = job_counts(done.stdout + done.stderr)
    expected = {"room": 1, "measure": 1, "all": 1} if mend else {"room": 1}
    assert jobs == expected, "if it is mended without the repair, delete dag_repair.py"
