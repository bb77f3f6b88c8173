"""Tokens lost on planted curves."""

import numpy as np
import polars as pl
import pytest

from scripts.lib.analysis.intervals import document_interval, jackknife
from scripts.lib.analysis.tokens_lost import estimate, history, tokens_lost

TRAINED = np.array([1e6, 2e6, 4e6, 8e6])


def power(tokens):
    """A loss that falls as a power of the tokens."""
    return 2 + 30 * np.asarray(tokens) ** -0.2


def lost(loss, losses=None, trained=TRAINED) -> float:
    return float(tokens_lost(np.array(loss), trained, power(trained) if losses is None else np.array(losses)))


@pytest.mark.parametrize("earlier", [1.1e6, 1.5e6, 3e6, 6e6])
def test_the_planted_point_is_found(earlier):
    assert 8e6 - lost(power(earlier)) == pytest.approx(earlier, rel=0.02)


def test_a_measured_point_is_found_exactly():
    assert lost(power(2e6)) == pytest.approx(6e6, rel=1e-12)


def test_the_logarithm_of_tokens_is_nearer_to_a_power_than_tokens_are():
    loss = power(6e6)
    linear = np.interp(-loss, -power(TRAINED), TRAINED)
    assert abs(8e6 - lost(loss) - 6e6) < abs(linear - 6e6) / 4


def test_outside_of_the_measured_curve_it_is_infinite_and_below_the_checkpoint_nothing():
    assert lost(power(0.9e6)) == np.inf
    assert lost(power(9e6)) == lost(power(8e6)) == 0
    assert lost(2.5, losses=[2.4], trained=np.array([1e6])) == np.inf
    assert lost(2.4, losses=[2.4], trained=np.array([1e6])) == 0


def test_of_several_points_of_this_loss_the_last_counts():
    losses = [5.0, 3.0, 4.0, 2.0]  # 3.5 lies between the first two, the next two and the last two
    assert lost(3.5, losses) == pytest.approx(8e6 - 4e6 * 2**0.25)


def test_many_draws_at_once():
    losses = np.stack([power(TRAINED), power(TRAINED) + 0.1])
    found = tokens_lost(np.full(2, power(3e6)), TRAINED, losses)
    assert found.tolist() == [lost(power(3e6)), lost(power(3e6) - 0.1)]


def test_a_run_goes_back_through_its_parents():
    rows = [
        ("run", "a", None, 0, "stable"),
        ("run", "b", None, 10, "stable"),
        ("run", "c", None, 20, "stable"),
        ("run", "d", None, 30, "stable"),
        ("cooled", "e", "run/c", 25, "decay"),
        ("cooled", "f", "run/c", 40, "decay"),
        ("later", "g", "cooled/e", 35, "stable"),
        ("mean", "h", "run", 30, "average"),
    ]
    names = ("trajectory", "checkpoint", "parent", "step", "phase")
    table = pl.DataFrame(rows, names, orient="row").with_columns(
        tokens=100 * pl.col("step"), source=pl.lit("train"), peak_learning_rate=1e-3, learning_rate=1e-3
    )
    runs = {cell: "".join(name for _, name in run) for cell, run in history(table).items()}
    assert runs == {
        ("run", "b"): "b",
        ("run", "c"): "bc",
        ("run", "d"): "bcd",
        ("cooled", "e"): "bce",
        ("cooled", "f"): "bcef",
        ("later", "g"): "bceg",
        ("mean", "h"): "bch",
    }
    assert list(history(table)["cooled", "f"].values()) == [1000, 2000, 2500, 4000]


def documents(loss: float, losses, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums and sizes of 100 documents of 10 tokens; the quantized loss alone scatters by `spread` over documents."""
    scatter = np.random.default_rng(0).standard_normal(100)
    scatter = spread * (scatter - scatter.mean())
    return 10 * (loss + scatter), 10 * np.tile(np.asarray(losses)[:, None], 100), np.full(100, 10.0)


def test_an_interval_holds_the_points_whose_loss_is_not_resolved():
    quantized, curve, sizes = documents(float(power(3e6)), power(TRAINED), 0.1)
    found = estimate(quantized, curve, sizes, TRAINED, 0.95)
    assert found.value == pytest.approx(lost(power(3e6)))
    assert found.share == found.value / 8e6
    loss, influence = jackknife(lambda means: means[0], quantized[None], sizes[None])
    ends = [lost(end) / 8e6 for end in document_interval(loss, influence, 0.95)]  # the curve has no noise here
    assert [found.lower, found.upper] == pytest.approx(ends, rel=1e-6)
    assert found.reason is None


def test_what_the_measured_curve_does_not_say_is_absent_with_its_reason():
    found = estimate(*documents(float(power(0.5e6)), power(TRAINED), 1e-6), TRAINED, 0.95)
    assert (found.value, found.share, found.upper) == (None, None, None)
    assert found.reason == "its run had this loss before 1000000 tokens, where the measured checkpoints begin"
    found = estimate(*documents(float(power(1.1e6)), power(TRAINED), 0.4), TRAINED, 0.95)
    assert 0 < found.lower < found.share
    assert found.upper is None
    assert "the interval goes back to before 1000000 tokens" in found.reason
    alone = estimate(*documents(3.0, [2.9], 1e-3), TRAINED[:1], 0.95)
    assert alone.reason == "no earlier checkpoint of its run was measured"
    nothing = estimate(np.ones(9), np.empty((0, 9)), np.ones(9), np.empty(0), 0.95)
    assert nothing.reason == "its checkpoint has no known number of training tokens"


def test_an_interval_of_nothing_begins_at_nothing_and_has_a_width():
    for penalty in (0.005, 0.0, -0.005):
        found = estimate(*documents(float(power(8e6)) + penalty, power(TRAINED), 0.1), TRAINED, 0.95)
        assert found.lower == 0
        assert max(penalty, 0) <= found.share < found.upper
    assert found.share == 0


def test_a_single_document_has_no_interval():
    found = estimate(np.array([power(3e6)]), power(TRAINED)[:, None], np.ones(1), TRAINED, 0.95)
    assert found.value == pytest.approx(lost(power(3e6)))
    assert (found.lower, found.upper, found.reason) == (None, None, None)
