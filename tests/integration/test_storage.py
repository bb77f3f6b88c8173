"""resources/ and results/ elsewhere, by one setting each: on another file system, with the same numbers."""

import shutil
import tempfile
from pathlib import Path

import polars
import pytest

from tests.tools import edit, snakemake

CELL = "evaluated/smoke/step-40/rtn-w3-g32/loss-smoke.parquet"


@pytest.fixture
def memory():
    """A folder on a file system in memory, as a cluster's scratch is another one than its home."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.full
def test_both_folders_on_another_file_system(tree, memory):
    expected = polars.read_parquet(tree / "results" / CELL)
    folders = {"resources": str(memory / "resources"), "results": str(memory / "results")}
    shutil.move(tree / "resources", memory / "resources")
    shutil.rmtree(tree / "results")
    edit(tree / "config/studies/smoke.yaml", lambda study: study.update(folders=folders))
    snakemake(tree, "smoke", f"{memory}/results/{CELL}")
    assert polars.read_parquet(memory / "results" / CELL).equals(expected)
    assert not (tree / "resources").exists()
    assert not (tree / "results").exists()
