import numpy as np

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
