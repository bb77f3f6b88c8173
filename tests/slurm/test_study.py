"""A whole study on a real Slurm whose jobs have no network, and what a user does around it."""

import shutil

import polars
import pytest

from tests.slurm.cluster import LONG, wait_for
from tests.slurm.conftest import add_few
from tests.slurm.runs import Head, command, snapshot, submissions
from tests.tools import AFTER_CELLS, copy_tree, edit, job_counts, planned, snakemake

TABLES = ("checkpoints", "measurements")


def table(tree, name, study="few"):
    return polars.read_parquet(tree / f"results/tables/{study}/{name}.parquet")


@pytest.mark.full
def test_a_gpu_is_asked_for_in_both_forms(slurm, going, finished, tmp_path):
    """Both at once, each in a tree of its own."""
    target, heads, asked = "results/evaluated/smoke/step-20/none/loss-smoke.parquet", {}, {}
    for form in ("gpus", "gres"):
        tree = shutil.copytree(finished, tmp_path / form, symlinks=True)
        edit(tree / "config/studies/smoke.yaml", lambda study: study.update(compute={"device": "cuda"}))
        site = f"gpu_request: {form}\n"
        heads[form] = Head(slurm, tree, "smoke", "--retries", "0", target, site=site, often=True)

    def both_asked():
        for form in heads.keys() - asked.keys():
            if job := heads[form].seen("train"):  # another device trains anew
                asked[form] = slurm.ask("scontrol", "--details", "show", "job", job[0])
        return asked.keys() == heads.keys()

    wait_for(both_asked, LONG, "a GPU in both forms")
    assert "TresPerJob=gres:gpu:1" in asked["gpus"]
    assert "TresPerNode=gres:gpu:1" in asked["gres"]
    for form, head in heads.items():
        assert "GRES=gpu:1(IDX:0)" in asked[form], "the job has the node's GPU"
        said = head.finish(fails=True)
        assert "torch sees no GPU" in said, "a counted GPU is none: the job starts and says so"
        wait_for(lambda head=head: not head.jobs(), LONG, "the queue to be empty")


def test_tables_equal_a_local_runs_to_the_last_bit(done, tree):
    tables = [f"results/tables/few/{name}.parquet" for name in TABLES]
    assert planned(add_few(tree), "few", *tables) == {"tabulate": 1}, "the smoke study measured all of it"
    snakemake(tree, "few", *tables)
    for name in TABLES:
        assert table(done.tree, name).equals(table(tree, name)), name
    assert (done.tree / "results/report/few.html").stat().st_size > 10_000


@pytest.mark.full
def test_the_whole_smoke_study(cluster, finished, tmp_path):
    tree = copy_tree(tmp_path / "tree")
    Head(cluster, tree, "smoke").finish()
    for name in TABLES:
        assert table(tree, name, "smoke").equals(table(finished, name, "smoke")), name


def test_cells_were_submitted_as_arrays(done):
    jobs = done.said.count("has been submitted with SLURM jobid") + sum(
        len(line.split("IDs ")[1].split(" ")[0].split(","))
        for line in done.said.splitlines()
        if "Submitted array job" in line
    )
    assert submissions(done.said) < jobs


def test_a_second_head_stops_and_says_why(done):
    assert f"A run holds this folder: process {done.process.pid} on " in done.second
    assert "LockException" in done.second or "cannot be locked" in done.second


def test_recover_refuses_while_the_head_lives(done):
    assert done.recovery.returncode != 0
    assert f"a run is going on: process {done.process.pid}" in done.recovery.stderr


def test_jobs_have_only_a_loopback_device(slurm):
    devices = [line.split(":")[0].strip() for line in slurm.ask("srun", "cat", "/proc/net/dev").splitlines()[2:]]
    assert devices == ["lo"]
    assert slurm.ask("srun", "cat", "/proc/net/route").splitlines()[1:] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), {}),
        (("-R", "evaluate_tasks"), {"evaluate_tasks": 2} | AFTER_CELLS),
        (("-R", "quantize", "--until", "quantize"), {"quantize": 2}),
    ],
)
def test_single_stages(slurm, done, arguments, expected):
    said = Head(slurm, done.tree, "few", "--dry-run", *arguments).finish()
    assert job_counts(said) == expected


def test_doctor_finds_nothing_to_fix_and_then_a_wrong_partition(slurm, done):
    said = command(slurm, done.tree, "doctor")
    assert said.returncode == 1, said.stdout + said.stderr
    *lines, of_gpu = said.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        f"ok   {check}"
        for check in (
            *("environment", "file locks", "storage", "head", "site file", "scheduler", "partitions", "GPU requests"),
            "probe job",
        )
    ]
    assert of_gpu.startswith("fix  GPU node: torch")
    assert "sees no GPU" in of_gpu or "without CUDA" in of_gpu, "a counted GPU is none"
    assert "taken: gpus and gres" in said.stdout
    (done.tree / "wrong.yaml").write_text("partition: nowhere\n")
    said = command(slurm, done.tree, "doctor", TRAJQUANT_SITE="wrong.yaml")
    assert said.returncode == 1
    assert "fix  partitions: partition `nowhere` is not there or not up: choose from main" in said.stdout


@pytest.mark.full
@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        (("-R", "evaluate_tasks"), ("/tasks-smoke.", "results/tables/")),
        (("-R", "quantize", "--until", "quantize"), ("results/quantized/",)),
    ],
)
def test_a_single_stage_is_made_again_and_nothing_else(cluster, done, arguments, again):
    before = snapshot(done.tree)
    Head(cluster, done.tree, "few", *arguments).finish(400)
    after = snapshot(done.tree)
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {path for path in before if any(part in path for part in again)}
