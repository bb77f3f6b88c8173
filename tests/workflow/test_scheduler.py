"""The fault of Snakemake's scheduler that cluster/scheduler_repair.py repairs, with and without the repair."""

import re
import subprocess
import sys

import pytest

from tests.tools import ROOT

JOBS = 25
WORKFLOW = f"""
import sys, threading
sys.path.insert(0, "{ROOT}")
from scripts.lib.cluster import scheduler_repair

rule all:
    input: expand("{{number}}.done", number=range({JOBS}))

rule one:
    output: "{{number}}.done"
    shell: "touch {{output}}"

onstart:
    if config["mend"]:
        scheduler_repair.mend()

onsuccess:
    print("threads:", threading.active_count())
"""


@pytest.mark.parametrize("mend", [False, True])
def test_threads_do_not_grow_with_the_jobs(tmp_path, mend):
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", f"mend={mend}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert len(list(tmp_path.glob("*.done"))) == JOBS
    threads = int(re.search(r"threads: (\d+)", done.stdout)[1])
    assert threads < 5 if mend else threads > 10, "if it is mended without the repair, delete scheduler_repair.py"
