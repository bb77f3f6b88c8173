"""mechanism: what was planted in made-up slices is found again."""

import math

import numpy as np
import polars as pl
import pytest

from scripts.lib.analysis.mechanism import (
    MECHANISM,
    MECHANISM_PARTS,
    bend,
    layers_table,
    mechanism_tables,
    read,
    slope,
    split,
)
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import PIECES, two_peaks, write_slice, write_study

CELL = ("low", "step-400", "gptq-w3-g32")
CURVE = (3.0, 0.01, 0.06, 0.002)  # loss at t = 0, and what t, t^2 and t^3 add
SIZE = 0.2


@pytest.fixture
def study(tmp_path):
    return write_study(tmp_path, two_peaks()[:2], documents=20, tasks=False)


@pytest.fixture
def found(study):
    """A function that gives the tables of the slices that were written."""
    made = tabulate(**study.arguments())
    return lambda: mechanism_tables("made-up", study.slices, made["checkpoints"], made["methods"])


def luck(path):
    """By what factor the documents of a made-up slice add more than its polynomial, on average over tokens."""
    rows = pl.read_parquet(path).filter(moved="along", t=1.0)
    return (rows["nll"].sum() / rows["tokens"].sum() - CURVE[0]) / sum(CURVE[1:])


def test_planted_derivatives_are_found(study, found):
    """Of a cubic exactly: Richardson's extrapolation leaves fourth orders and above."""
    factor = luck(write_slice(study, CELL, SIZE, CURVE))
    row = found()["mechanism"].row(0, named=True)
    assert row["slope"] == pytest.approx(factor * 0.01)
    assert row["bend"] == pytest.approx(factor * 0.12)
    assert row["curvature"] == pytest.approx(factor * 0.12 / SIZE**2)
    assert row["penalty"] == pytest.approx(factor * 0.072)
    assert row["remainder"] == pytest.approx(factor * 0.002)
    assert row["random_curvature"] == pytest.approx(factor * 0.06 / SIZE**2)
    assert row["random_penalty"] == pytest.approx(factor * 0.036)
    assert row["kl_curvature"] == pytest.approx(1 / SIZE**2)
    assert row["sum_of_blocks"] == pytest.approx(2 * 0.3 * row["penalty"])


def test_the_logarithm_of_the_penalty_is_split(study, found):
    write_slice(study, CELL, SIZE, CURVE)
    row = found()["mechanism"].row(0, named=True)
    assert row["log_size"] == pytest.approx(math.log(SIZE**2))
    assert row["log_penalty"] == pytest.approx(row["log_size"] + row["log_curvature"] + row["log_remainder"])
    assert row["log_remainder"] == pytest.approx(math.log(0.072 / 0.06))


def test_a_way_that_bends_down_has_no_logarithms(study, found):
    write_slice(study, CELL, SIZE, (3.0, 0.09, -0.01, 0.0))
    row = found()["mechanism"].row(0, named=True)
    assert row["curvature"] < 0 < row["penalty"]
    assert (row["log_curvature"], row["log_remainder"]) == (None, None)
    assert row["log_penalty"] is not None


def test_standard_errors_are_those_of_resampled_documents(study):
    _, cell = read(write_slice(study, CELL, SIZE, CURVE, documents=200))
    draw, sums = np.random.default_rng(0), sum(factor * cell.sums["nll", key] for key, factor in bend().items())
    picks = draw.integers(0, 200, (4000, 200))
    means = sums[picks].sum(axis=1) / cell.tokens[picks].sum(axis=1)
    assert split(cell)["curvature_stderr"] == pytest.approx(means.std() / SIZE**2, rel=0.05)


def test_factors_of_derivatives_add_up_to_nothing():
    for terms in (slope(), bend()):
        assert sum(terms.values()) == pytest.approx(0)


def test_parts_have_rows_of_their_own(study, found):
    write_slice(study, CELL, SIZE, CURVE)
    parts = found()["mechanism_parts"]
    assert list(parts.select("moved", "part").iter_rows()) == [
        (kind, part) for kind, names in PIECES.items() for part in names
    ]
    assert parts["share"].to_list() == pytest.approx([0.3] * 3)


def test_rows_say_which_checkpoint_and_recipe_they_are_of(study, found):
    write_slice(study, CELL, SIZE, CURVE)
    row = found()["mechanism"].row(0, named=True)
    expected = {"study": "made-up", "family": "low", "step": 400, "phase": "stable", "recipe": "gptq-w3-g32"}
    assert {name: row[name] for name in expected} == expected


def test_refused_cells_have_a_reason_and_no_numbers(study, found):
    write_slice(study, CELL, SIZE, CURVE, status="refused", reason="it rotates weights")
    made = found()
    row = made["mechanism"].row(0, named=True)
    assert (row["reason"], row["penalty"]) == ("it rotates weights", None)
    assert made["mechanism_parts"].is_empty()


def test_layers_are_told_apart_by_their_checkpoints(study, found, tmp_path):
    checkpoints = tabulate(**study.arguments())["checkpoints"]
    files = []
    for number, corpus in enumerate(("docstrings", "other")):
        files.append(tmp_path / f"{number}.parquet")
        rows = pl.DataFrame({"layer": ["a", "b"], "weight_norm": [1.0, 2.0]})
        (rows.clear() if number else rows).write_parquet(
            files[-1], metadata={"trajectory": CELL[0], "checkpoint": CELL[1], "corpus": corpus}
        )
    table = layers_table("made-up", files, checkpoints)
    assert table["layer"].to_list() == ["a", "b"]
    assert set(table.select("step", "family", "dataset").unique().row(0)) == {400, "low", "docstrings"}
    assert layers_table("made-up", [], checkpoints).is_empty()


def test_without_slices_the_tables_are_empty(found):
    made = found()
    assert dict(made["mechanism"].schema) == MECHANISM
    assert dict(made["mechanism_parts"].schema) == MECHANISM_PARTS
    assert made["mechanism"].is_empty()
