import numpy as np
import pytest

from scripts.lib.analysis import resampling


def test_resamples_draw_as_many_documents_as_there_are(monkeypatch):
    monkeypatch.setattr(resampling, "CHUNK_BYTES", 8 * 10 * 3)
    chunks = list(resampling.resamples(10, 8, seed=1))
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    assert (np.concatenate(chunks).sum(axis=1) == 10).all()


def test_same_seed_and_dataset_give_the_same_draws_and_another_dataset_others():
    sums, sizes = np.random.default_rng(0).normal(size=(2, 30)), np.ones((2, 30))
    first = resampling.bootstrap_means(sums, sizes, 20, 5, "a")
    assert np.array_equal(first, resampling.bootstrap_means(sums, sizes, 20, 5, "a"))
    assert not np.array_equal(first, resampling.bootstrap_means(sums, sizes, 20, 5, "b"))


def test_interval_leaves_out_draws_that_are_not_numbers():
    samples = np.column_stack([np.r_[np.nan, np.linspace(0, 1, 101)], np.full(102, np.nan)])
    lower, upper = resampling.interval(samples, 0.9)
    assert (lower[0], upper[0]) == pytest.approx((0.05, 0.95))
    assert np.isnan([lower[1], upper[1]]).all()


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_interval_refuses_a_confidence_that_is_no_probability(confidence):
    with pytest.raises(ValueError, match=f"not {confidence}"):
        resampling.interval(np.zeros((3, 1)), confidence)
