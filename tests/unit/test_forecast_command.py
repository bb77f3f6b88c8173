"""make forecast: a planned cooldown from planted laws, what is held out, and what it refuses."""

import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from scripts.commands import forecast as command
from scripts.lib.analysis.laws.forecasting import FEW_RUNS, NOT_SCORED, QUANTIZED, Decay, forecast
from scripts.lib.analysis.laws.forms import LOSS, PENALTY
from tests.unit.planted_laws import Design, follow, tables

SMALL = Design(seeds=(1, 2, 3), peaks=(6e-3,), bits=(3,), cooldowns=((800, 200), (1600, 200), (1600, 400), (2000, 100)))
LAWS = ("annealing", "kumar")


def made(design: Design = SMALL, drop: str | None = None, seed: int = 3) -> dict[str, pl.DataFrame]:
    """Tables of planted laws; `drop` is a part of names of trajectories that are not measured."""
    found = follow(tables(design), LAWS, np.random.default_rng(seed), noise=0.004)
    rows = pl.col("trajectory").str.contains(drop or "nothing")
    return found | {name: found[name].filter(~rows) for name in ("measurements", "checkpoints")}


def test_a_cooldown_that_was_held_out_lies_in_its_interval():
    """Forecast from three seeds, one of which lacks the cooldown; it is measured in the whole tables."""
    whole, inside = made(), []
    for start, length in ((1600, 400), (2000, 100)):
        name = f"run-0.006-2-{start}-{length}"
        known, _ = forecast(made(drop=name), Decay(start, length), 0.95)
        truth = whole["measurements"].filter(trajectory=name, metric="cross_entropy")
        loss, penalty = (truth.filter(recipe=recipe)["value"][0] for recipe in ("none", "rtn-w3"))
        for quantity, value in ((LOSS, loss), (PENALTY, penalty)):
            (one,) = (f for f in known if f.trunk == "run-0.006-2" and f.quantity == quantity)
            assert one.value == pytest.approx(value, rel=0.03)
            assert one.end == start + length
            inside.append(one.lower <= value <= one.upper)
    assert all(inside)


def test_the_loss_after_quantization_is_loss_and_penalty():
    found, notes = forecast(made(), Decay(None, 200), 0.95)
    parts = {one.quantity: one for one in found if one.trunk == "run-0.006-1"}
    assert parts[QUANTIZED].value == pytest.approx(parts[LOSS].value + parts[PENALTY].value)
    assert parts[LOSS].end == 2600
    assert parts[LOSS].runs == 3
    assert parts[LOSS].cooldowns == 12
    assert parts[LOSS].error < 0.5 * parts[LOSS].last_error
    assert notes == []


def test_a_cooldown_beyond_those_of_the_study_is_said():
    _, notes = forecast(made(), Decay(None, 3000), 0.95)
    assert notes == ["the study's cooldowns take 100 to 400 steps: one of 3,000 is beyond them"]


def test_few_runs_have_no_interval_and_one_run_no_forecast():
    found, notes = forecast(made(replace(SMALL, seeds=(1, 2))), Decay(None, 200), 0.95)
    assert {one.lower for one in found} == {None}
    assert FEW_RUNS in notes
    found, notes = forecast(made(replace(SMALL, seeds=(1,))), Decay(None, 200), 0.95)
    assert found == []
    assert f"{LOSS}: {NOT_SCORED}" in notes


def test_a_start_before_all_checkpoints_is_refused():
    found, notes = forecast(made(), Decay(100, 200), 0.95)
    assert found == []
    assert "run-0.006-1: no checkpoint is measured up to step 100" in notes


@pytest.mark.parametrize(("text", "decay"), [("200", Decay(None, 200)), ("2200:2400", Decay(2200, 200))])
def test_a_cooldown_as_it_is_written(text, decay):
    assert command.planned(text) == decay


@pytest.fixture
def says(tmp_path, monkeypatch, capsys):
    """What the command prints for the study smoke, whose tables are planted ones, or says as it ends."""

    def run(decay: str, found: dict[str, pl.DataFrame]) -> str:
        folder = tmp_path / "results/tables/smoke"
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in found.items():
            table.write_parquet(folder / f"{name}.parquet")
        folders = tmp_path / "folders.yaml"
        folders.write_text(f"folders: {{resources: {tmp_path}/resources, results: {tmp_path}/results}}\n")
        monkeypatch.setattr(sys, "argv", ["forecast", decay, "smoke", str(folders)])
        try:
            command.main()
        except SystemExit as end:
            return str(end)
        return capsys.readouterr().out

    return run


def test_what_the_command_prints(says):
    said = says("2400:2600", made())
    assert "run-0.006-3  2600  rtn-w3  loss after quantization" in said
    assert "off by: on the ends of 12 cooldowns of 3 runs, each left out of the fit" in said


@pytest.mark.parametrize(
    ("decay", "found", "message"),
    [
        ("", {}, "DECAY=: give a length in steps (DECAY=200) or where it starts and ends (2200:2400)"),
        ("5:5", {}, "DECAY=5:5: a cooldown must end after it starts"),
        ("200", {}, "measurements.parquet; run the study first"),
        ("200", made(replace(SMALL, seeds=(1,))), f"this study cannot forecast a cooldown\nnote: loss: {NOT_SCORED}"),
    ],
)
def test_what_it_refuses(says, decay, found, message):
    said = says(decay, found)
    assert said.startswith("forecast: ")
    assert message in said
