import numpy as np
import pytest

from scripts.lib.analysis import resampling


def test_mean_weighs_documents_by_their_size():
    assert resampling.mean(np.array([[2.0, 9.0]]), np.array([[1.0, 3.0]])) == pytest.approx([11 / 4])


def test_clustered_stderr_of_equal_documents_is_that_of_their_means():
    values = np.random.default_rng(0).normal(size=50)
    error = resampling.clustered_stderr(values[None] * 7, np.full((1, 50), 7.0))
    assert error == pytest.approx([values.std(ddof=1) / np.sqrt(50)])


def test_clustered_stderr_needs_two_documents_and_skips_unseen_ones():
    sums, sizes = np.array([[3.0, 0.0, 0.0], [1.0, 2.0, 0.0]]), np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    error = resampling.clustered_stderr(sums, sizes)
    assert np.isnan(error[0])
    assert error[1] == pytest.approx(0.5)


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


def test_paired_intervals_cover_the_truth():
    """95 % intervals of a relative error on simulated documents of uneven size with correlated tokens."""
    generator, repeats, documents, truth = np.random.default_rng(3), 300, 80, 0.02
    hits = 0
    for repeat in range(repeats):
        sizes = generator.integers(10, 200, documents).astype(float)
        baseline = 3 + 0.6 * generator.normal(size=documents)
        quantized = baseline + 3 * truth * (1 + generator.normal(size=documents))
        sums = np.stack([baseline * sizes, quantized * sizes])
        means = resampling.bootstrap_means(sums, np.stack([sizes, sizes]), 300, repeat)
        lower, upper = resampling.interval(means[:, 1] / means[:, 0] - 1, 0.95)
        hits += lower <= truth <= upper
    assert 0.90 <= hits / repeats <= 0.985


def test_clustered_stderr_matches_the_scatter_of_simulated_means():
    generator = np.random.default_rng(4)
    sizes = generator.integers(10, 200, (400, 100)).astype(float)
    sums = sizes * (3 + 0.6 * generator.normal(size=(400, 100)))
    spread = resampling.mean(sums, sizes).std()
    assert resampling.clustered_stderr(sums, sizes).mean() == pytest.approx(spread, rel=0.1)
