"""Measures and effects: numbers worked out by hand, derivatives against leaving a document out, and disagreements."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from scripts.lib.analysis.effects import MEASURES, RATIO, Sums, disagreements, effect, influence, sums_of_cells
from scripts.lib.analysis.measures import paired, read_loss

DOCUMENTS = 40


def sums(quantized, baseline, kl, agree, curve=((8.0, 8.0),), trained=(4.0,), bend=(1, 3), sliced=(1, 3)) -> Sums:
    """Two documents of 2 and 4 tokens, 12 and 12 bytes."""
    arrays = (np.array(values, dtype=float) for values in (quantized, baseline, kl, agree, (2, 4), (12, 12), curve))
    return Sums(*arrays, np.array(trained), np.array(bend, dtype=float), np.array(sliced, dtype=float))


THIS = sums((5, 8), (4, 8), (1, 2), (1, 4), bend=(0, 6), sliced=(0, 3))  # losses 13/6 and 2
REFERENCE = sums((8, 7), (7, 8), (1, 0.5), (2, 4), ((10, 10), (5, 5)), (1.0, 4.0))  # losses 15/6 and 15/6
BY_HAND = {
    "relative_error": 13 / 12 - 1,
    "kl": math.log(3 / 1.5),
    "penalty": 1 / 6,
    "penalty_bits": 1 / 24 / math.log(2),
    "loss": -2 / 6,
    "loss_bits": -2 / 24 / math.log(2),
    "top1_agreement": -1 / 6,
    "curvature": math.log((6 / 3) / (4 / 4)),
    "gain": 3 / 6,
    "gain_kept": 2 / 3,
    "tokens_lost": 0 - 2 / 4,  # halfway between losses of 20 and 10, at 1 and 4 tokens: exp((ln 1 + ln 4) / 2) = 2
}


def test_effects_are_those_worked_out_by_hand():
    assert {name: effect(MEASURES[name], THIS, REFERENCE) for name in BY_HAND} == pytest.approx(BY_HAND)
    assert set(BY_HAND) == set(MEASURES)
    assert [name for name, measure in MEASURES.items() if measure.shown == RATIO] == ["kl", "curvature"]


def cell(seed: int, error: float) -> Sums:
    draw = np.random.default_rng(seed)
    tokens = np.random.default_rng(0).integers(20, 200, DOCUMENTS).astype(float)
    baseline = tokens * (3 + draw.random(DOCUMENTS))
    penalty = error * baseline * (1 + 0.3 * draw.standard_normal(DOCUMENTS))
    curve = np.array([1.4 * baseline, 1.1 * baseline * (1 + 0.1 * draw.random(DOCUMENTS)), baseline])
    shares = (penalty * draw.random(DOCUMENTS), 0.9 * tokens)
    trained, sliced = np.array([1e6, 2e6, 4e6]), np.where(np.arange(DOCUMENTS) % 4, 0, tokens)
    bend = error * sliced * (1 + draw.random(DOCUMENTS))
    return Sums(baseline + penalty, baseline, *shares, tokens, 4.2 * tokens, curve, trained, bend, sliced)


@pytest.mark.parametrize("name", MEASURES)
def test_influence_is_the_derivative_by_a_documents_weight(name):
    this, reference, measure = cell(1, 0.05), cell(2, 0.12), MEASURES[name]
    found = influence(measure, this, reference)
    assert abs(found.sum()) <= 1e-12 * np.abs(found).sum()
    step = 1e-5

    def weighted(document: int, change: float) -> float:
        weights = np.ones(DOCUMENTS)
        weights[document] += change
        return float(measure.effect(this.total(weights), reference.total(weights)))

    slopes = [(weighted(d, step) - weighted(d, -step)) / (2 * step) for d in range(3)]
    assert found[:3] == pytest.approx(slopes, rel=1e-4, abs=1e-9)


def test_many_weights_at_once_give_the_values_of_each():
    this, counts = cell(1, 0.05), np.random.default_rng(3).multinomial(DOCUMENTS, [1 / DOCUMENTS] * DOCUMENTS, size=5)
    for measure in (measure for measure in MEASURES.values() if measure.value):
        each = [float(measure.value(this.total(row))) for row in counts.astype(float)]
        assert measure.value(this.total(counts.astype(float))) == pytest.approx(each)


def test_what_is_not_defined_is_not_finite():
    same = replace(THIS, kl=np.zeros(2))
    assert not math.isfinite(effect(MEASURES["curvature"], THIS, replace(THIS, bend=None, sliced=None)))
    assert not math.isfinite(effect(MEASURES["kl"], THIS, same))
    assert not math.isfinite(effect(MEASURES["gain_kept"], THIS, THIS))
    lost = MEASURES["tokens_lost"]
    assert not math.isfinite(effect(lost, replace(THIS, quantized=np.array([50.0, 50.0])), REFERENCE))
    unknown = replace(THIS, curve=np.empty((0, 2)), trained=np.empty(0))
    assert not math.isfinite(effect(lost, unknown, REFERENCE))
    assert np.isnan(influence(lost, unknown, REFERENCE)).all()


def test_sums_of_cells_come_from_what_was_measured_with_the_runs_own_curve():
    def segments(factor: float, documents=("a", "b", "a")) -> pl.DataFrame:
        numbers = {"tokens": [2, 3, 4], "bytes": [8.0, 10.0, 16.0], "nll": [3 * factor, 6 * factor, 9 * factor]}
        return pl.DataFrame({"document": documents, **numbers, "kl": [0.5, 0.0, 0.25], "agree": [2, 1, 3]})

    parts = {
        ("run", "one", "none"): segments(2.0),
        ("run", "other", "none"): segments(1.9, ("a", "b", "c")),
        ("run", "two", "none"): segments(1.0),
        ("run", "two", "nf4"): segments(1.5),
    }
    metadata = {"corpus": "docstrings", "dtype": "float32"}
    measured = [item for cell, part in parts.items() for item in read_loss(part, cell, metadata)]
    runs = {("run", "two"): {("run", "one"): 100, ("run", "other"): 150, ("run", "two"): 200}}
    ((place, found),) = sums_of_cells(paired(measured, {}), runs).items()
    assert place == ("docstrings", ("run", "two", "nf4"))
    assert found.quantized.tolist() == [18.0, 9.0]
    assert (found.tokens.tolist(), found.bytes.tolist()) == ([6.0, 3.0], [24.0, 10.0])
    assert (found.curve.tolist(), found.trained.tolist()) == ([[24.0, 12.0], [12.0, 6.0]], [100.0, 200.0])
    assert float(MEASURES["penalty"].value(found.total())) == 1.0


def test_disagreements_are_opposite_harms_that_are_both_resolved():
    rows = [  # LAWA of the demo at 4 bits, then cases that agree, are not resolved, or do not tell of harm
        ("lawa", "relative_error", 0.06, 0.01, 0.11),
        ("lawa", "kl", -0.26, -0.28, -0.24),
        ("lawa", "penalty", 0.001, -0.001, 0.003),
        ("lawa", "loss", -0.4, -0.5, -0.3),
        ("decay", "relative_error", 0.2, 0.1, 0.3),
        ("decay", "kl", 0.1, 0.05, 0.15),
        ("decay", "top1_agreement", -0.1, -0.2, -0.05),
        ("decay", "gain_kept", 1.2, 1.1, 1.3),
        ("decay", "tokens_lost", None, None, None),
    ]
    names = ("claim", "measure", "effect", "lower", "upper")
    table = pl.DataFrame(rows, names, orient="row").with_columns(method=pl.lit("gptq"), seed=pl.lit(1))
    found = disagreements(table).select("claim", "measure", "effect", "other_measure", "other_effect").rows()
    assert found == [
        ("decay", "kl", 0.1, "gain_kept", 1.2),
        ("decay", "relative_error", 0.2, "gain_kept", 1.2),
        ("decay", "top1_agreement", -0.1, "gain_kept", 1.2),
        ("lawa", "relative_error", 0.06, "kl", -0.26),
    ]
