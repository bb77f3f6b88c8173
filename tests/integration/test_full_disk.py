"""A full disk: one clear error; after space is made, the next run finishes with what was already computed."""

import os
import shutil
import subprocess

import polars
import pytest

from tests.tools import edit, measurements, snakemake


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB that a test can enlarge."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.full
def test_a_full_disk_costs_nothing_already_computed(finished, tree, small_disk):
    shutil.rmtree(tree / "results")

    def elsewhere(study):
        study["folders"] = {"results": str(small_disk)}
        study["study"]["cells"] = [{"trajectories": ["smoke"], "checkpoints": [40], "methods": ["rtn-w3-g32"]}]
        study["study"]["cells"][0]["loss"] = ["smoke"]
        study["study"]["claims"] = []

    edit(tree / "config/studies/smoke.yaml", elsewhere)
    output = snakemake(tree, "smoke", "all_evaluated", fails=True)
    assert "No space left on device" in output
    done = [path.relative_to(small_disk) for path in small_disk.rglob("loss-*.parquet")]
    times = {path: (small_disk / path).stat().st_mtime_ns for path in done}
    subprocess.run(["mount", "-o", "remount,size=200m", small_disk], check=True)
    snakemake(tree, "smoke", "results/tables/smoke/measurements.parquet".replace("results", str(small_disk)))
    assert all((small_disk / path).stat().st_mtime_ns == time for path, time in times.items())
    (tree / "results").symlink_to(small_disk)
    keys = ["trajectory", "checkpoint", "method", "metric", "dataset"]
    of_the_run = polars.col("metric") == "tokens_lost"  # it rests on all of the run's checkpoints
    again = measurements(tree, "smoke").filter(~of_the_run)
    before = measurements(finished, "smoke").join(again.select(keys), on=keys, how="semi")
    assert again.sort(keys).equals(before.sort(keys))
