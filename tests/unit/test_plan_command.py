"""make plan: what it prints for the studies smoke and demo."""

import os
import re
import sys

import pytest

from scripts.commands import plan


@pytest.fixture
def says(tmp_path, monkeypatch, capsys):
    """The command's output; nothing is done in its folders."""
    folders = tmp_path / "folders.yaml"
    folders.write_text(f"folders: {{resources: {tmp_path}/resources, results: {tmp_path}/results}}\n")

    def run(study: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["plan", study, str(folders), *arguments])
        plan.main()
        return capsys.readouterr().out

    return run


def row(said: str, first: str) -> list[str]:
    return re.search(rf"^{first} .*$", said, re.MULTILINE)[0].split()


@pytest.mark.parametrize(("study", "jobs", "quantized"), [("smoke", 56, 8), ("demo", 254, 66)])
def test_a_study_that_is_not_begun(says, study, jobs, quantized):
    said = says(study)
    assert f"jobs: {jobs} to do, {jobs} in all" in said
    assert row(said, "quantize")[:3] == ["quantize", str(quantized), str(quantized)]
    assert row(said, "quantize")[-2:] == ["-", "default"]
    assert "downloads of checkpoints: 0.0 GB to fetch, 0.0 GB in all" in said
    assert "default numbers are those of a CPU" in said
    assert row(said, study if study == "smoke" else "demo-seed1")[-1] == "estimate"


def test_each_claim_with_what_it_will_compare_and_refuse(says):
    said = says("demo")
    assert "claim `decay-raises`: 9 comparisons in seed 1, seed 2, seed 3\n" in said
    assert "  compares demo-cooldown-seed1-from-1100 step 1300 with demo-seed1 step 1300\n" in said
    assert re.search(r"varied in runs trained here.*: tokens \d", said)
    assert "varied" not in says("pythia-small")


def test_more_jobs_at_once(says, tmp_path):
    hours = [float(row(says("demo", "--jobs", str(number)), "hours:")[1]) for number in (1, 4, 1000)]
    assert hours[0] == pytest.approx(4 * hours[1], rel=0.01)
    assert hours[2] > hours[0] / 1000  # a run's links wait for each other


def test_a_gpu_is_an_estimate(says, tmp_path):
    cuda = tmp_path / "cuda.yaml"
    cuda.write_text("compute: {device: cuda}\n")
    said = says("smoke", str(cuda))
    assert "default numbers of a GPU are an estimate, not measured" in said
    assert re.search(r"^GPU-hours: 0\.\d+ to do", said, re.MULTILINE)
    assert row(said, "train")[4] == "GPU"
    assert row(said, "plot")[4] == "CPU"


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_impossible_numbers_of_jobs(says, number, capsys):
    with pytest.raises(SystemExit):
        says("smoke", f"--jobs={number}")
    assert f"invalid positive value: '{number}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("another", "`another`; there are: averaging, choose, cosine-vs-wsd, "),
        ("smokee", "`smokee`; did you mean `smoke`?"),
        ("", "``; there are: "),
    ],
)
def test_a_study_that_is_not_there(monkeypatch, given, answer):
    monkeypatch.setattr(sys, "argv", ["plan", *filter(None, [given])])
    with pytest.raises(SystemExit, match=re.escape(f"plan: STUDY=NAME: there is no study {answer}")):
        plan.main()


def test_jobs_of_the_local_profile():
    assert plan.jobs_at_once(10_000) == 1
    assert plan.jobs_at_once(1) >= 1


def test_threads_and_jobs_are_proposed_for_this_machine(says, tmp_path):
    cores = len(os.sched_getaffinity(0))
    found = re.search(r"proposed: `compute: {threads: (\d+)}` with (\d+) jobs at once", says("smoke"))
    threads, jobs = map(int, found.groups())
    assert threads * jobs <= cores < (threads + 1) * jobs
    cuda = tmp_path / "cuda.yaml"
    cuda.write_text("compute: {device: cuda}\n")
    assert "proposed" not in says("smoke", str(cuda))


@pytest.mark.parametrize(("held", "jobs"), [(1e9, 8), (4e9, 7), (20e9, 1), (100e9, 1)])
def test_no_more_jobs_than_memory_holds(held, jobs):
    assert plan.propose_jobs(8, 32e9, held) == jobs
