"""Published trajectories: every file of the registry is worked out, and rates and tokens are those of the facts."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from scripts.lib.hub import locks
from scripts.lib.runtime.config_files import ConfigError, load_named
from scripts.lib.study import schedules
from scripts.lib.study.plan import Plan
from scripts.lib.study.trajectories.published import Published, points
from tests.tools import add_trajectory

FOLDER = Path("config/trajectories")
HUB = sorted(path.stem for path in FOLDER.glob("*.yaml") if "\nsource: hub\n" in path.read_text())
EXPECTED = pl.read_csv("tests/data/published_rates.csv")
RUN = {
    "revisions": {"pattern": r"step(?P<step>\d+)", "all": ["step20", "step0"], "named": {"main": 40}},
    "schedule": {"name": "wsd", "peak": 2.0, "warmup": 10, "decay": {"start": 20, "end": 40, "shape": "linear"}},
    "tokens_per_step": [{"from": 0, "tokens": 5}, {"from": 30, "tokens": 10}],
}


def read(name: str) -> Published:
    """A trajectory, worked out with all that it goes on from."""
    return add_trajectory(Plan({"evaluate_loss": {"window": 128}}), name, FOLDER, "test")


@pytest.mark.parametrize("name", HUB)
def test_every_file_is_worked_out(name):
    rows = read(name).points
    assert len(rows) > 0
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert all(row["learning_rate"] >= 0 and row["tokens"] >= 0 for row in rows)


@pytest.mark.parametrize("name", sorted(set(EXPECTED["trajectory"])))
def test_rates_and_tokens_are_those_of_the_facts(name):
    """Steps are the run's own there, tokens are counted from the very beginning."""
    trajectory = read(name)
    rows = {row["revision"]: row for row in trajectory.points}
    for expected in EXPECTED.filter(trajectory=name).to_dicts():
        row = rows[expected["revision"]]
        assert row["step"] - trajectory.before["step"] == expected["step"], expected
        assert row["tokens"] == expected["tokens"], expected
        assert row["learning_rate"] == pytest.approx(expected["learning_rate"], rel=1e-3, abs=1e-12), expected


def test_steps_and_tokens_are_counted_from_the_beginning():
    rows = points(RUN, {"step": 100, "tokens": 1000})
    assert [row["revision"] for row in rows] == ["step0", "step20", "main"]
    assert [row["step"] for row in rows] == [100, 120, 140]
    assert [row["tokens"] for row in rows] == [1000, 1100, 1250]
    assert [row["phase"] for row in rows] == ["warmup", "stable", "decay"]


@pytest.mark.parametrize(
    ("revisions", "message"),
    [
        ({"all": ["stage1-step3"]}, "`stage1-step3` does not fit"),
        ({"named": {"main": 20}}, "both of step 20"),
    ],
)
def test_revisions_that_cannot_be_told_apart_are_named(revisions, message):
    with pytest.raises(ValueError, match=message):
        points(RUN | {"revisions": RUN["revisions"] | revisions}, {"step": 0, "tokens": 0})


SURPRISES = {
    ("olmo2-13b", "peak"): 9e-4,  # not the 3e-4 that the paper draws
    ("pythia-160m", 115_200): 6e-5,  # a cosine to zero, clipped at a tenth of the peak, ...
    ("pythia-160m", 143_000): 6e-5,  # ... so flat for the last fifth
    ("olmo3-7b-midtraining", 0): 2.0712352850360292e-4,  # a re-warm: stage 1 ended at 3.9e-5
    ("olmo3-7b", 1_413_814): 3.9325e-5,
    ("smollm3-3b", 4_198_001): 2e-4,  # stable until 9.9T tokens, not for all 11T
    ("marin-8b", 820_000): 1.7e-4,  # a decay in the midst of the run, ...
    ("marin-8b", 821_000): 9.35e-4,  # ... a re-warm of 2000 steps, ...
    ("marin-8b", 1_320_000): 1.7e-3,
    ("marin-8b", 1_400_000): 1.7e-5,  # ... and another decay
}
PEAKS = {  # of Pythia, by size, with the floor a tenth of each
    **{"14m": 1e-3, "31m": 1e-3, "70m": 1e-3, "160m": 6e-4, "410m": 3e-4},
    **{"1b": 2.5e-4, "1.4b": 2e-4, "2.8b": 1.6e-4, "6.9b": 1.2e-4, "12b": 1.2e-4},
}


@pytest.mark.parametrize(("name", "step"), SURPRISES)
def test_surprises(name, step):
    schedule = load_named(FOLDER, "trajectory", name)["schedule"]
    found = schedules.peak(schedule) if step == "peak" else float(schedules.learning_rate(schedule, step))
    assert found == pytest.approx(SURPRISES[name, step], rel=1e-3)


@pytest.mark.parametrize("name", [name for name in HUB if name.startswith("pythia-")])
def test_peaks_and_ends_of_pythia(name):
    schedule, peak = load_named(FOLDER, "trajectory", name)["schedule"], PEAKS[name.split("-")[1]]
    found = schedules.learning_rate(schedule, [143, 1430, 115_200, 143_000])
    assert found == pytest.approx([0.1 * peak, peak, 0.1 * peak, 0.1 * peak], rel=2e-3)


def test_phases_and_batches_of_marin():
    rows = {row["revision"]: row for row in read("marin-8b").points}
    assert [row["phase"] for row in rows.values()] == ["stable", "decay", "stable", "decay", "stable"]
    found = {name: round(row["tokens"] / 1e12, 2) for name, row in rows.items()}
    assert found == {"ocelot": 3.78, "jellyfish": 4.78, "phoenix": 11.07, "starling": 12.42, "deeper-starling": 12.75}
    schedule = load_named(FOLDER, "trajectory", "marin-8b")["schedule"]
    assert schedules.phase(schedule, [500, 820_001, 822_001]).tolist() == ["warmup", "rewarm", "stable"]


def test_the_batch_of_apertus_doubles():
    tokens = schedules.tokens([1_678_000, 1_678_001], load_named(FOLDER, "trajectory", "apertus-8b")["tokens_per_step"])
    assert tokens.tolist() == [1_678_000 * 4_194_304, 1_678_000 * 4_194_304 + 8_388_608]


def test_a_repository_for_each_checkpoint():
    found = read("tinyllama-1.1b").published(480_000)
    name = "intermediate-step-480k-1T"
    assert (found["repo"], found["revision"], found["name"]) == (f"TinyLlama/TinyLlama-1.1B-{name}", "main", name)


def test_a_lock_of_another_repository_is_refused(tmp_path):
    shutil.copy(FOLDER / "pythia-70m.yaml", tmp_path / "run.yaml")
    lock = {"revisions": {"step1000": {"repo": "other/repo", "commit": "0" * 40, "files": {}}}}
    path = locks.write(tmp_path, "run", lock)
    with pytest.raises(
        ConfigError, match=f"{path} is a lock of other/repo, and the trajectory names EleutherAI/pythia-70m"
    ):
        add_trajectory(Plan({"evaluate_loss": {"window": 128}}), "run", tmp_path, "test")
