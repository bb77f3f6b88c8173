import numpy as np
import pytest
from scipy import optimize, stats

from scripts.lib.analysis import intervals


def itself(means):
    return means


def documents(generator, count: int, truth: float) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sizes of a baseline and a model on documents of uneven size with heavy tails: shape (2, count)."""
    sizes = np.exp(generator.normal(4.5, 1.0, count))
    baseline = 3 + 0.6 * generator.normal(size=count)
    quantized = baseline + 3 * truth * (1 + generator.standard_t(4, count))
    return np.stack([baseline * sizes, quantized * sizes]), np.stack([sizes, sizes])


def test_mean_weighs_documents_by_their_size():
    assert intervals.mean(np.array([[2.0, 9.0]]), np.array([[1.0, 3.0]])) == pytest.approx([11 / 4])


def test_influence_on_a_mean_of_equal_documents_gives_its_standard_error():
    values = np.random.default_rng(0).normal(size=50)
    value, influence = intervals.jackknife(itself, values[None] * 7, np.full((1, 50), 7.0))
    assert value == pytest.approx([values.mean()])
    assert influence.sum() == pytest.approx(0)
    assert intervals.variance(influence) == pytest.approx([values.var(ddof=1) / 50])
    lower, upper = intervals.document_interval(value, influence, 0.95)
    freedom = intervals.degrees_of_freedom(influence)
    assert upper - value == pytest.approx(stats.t.ppf(0.975, freedom) * values.std(ddof=1) / np.sqrt(50))
    assert lower + upper == pytest.approx(2 * value)


def test_influence_on_any_effect_is_that_of_leaving_documents_out():
    sums, sizes = documents(np.random.default_rng(1), 12, 0.1)
    value, influence = intervals.jackknife(lambda means: np.log(means[1] / means[0]), sums, sizes)
    means = sums.sum(axis=1) / sizes.sum(axis=1)
    assert value == pytest.approx(np.log(means[1] / means[0]))

    def without(document: int) -> float:
        total, size = (np.delete(part, document, axis=1).sum(axis=1) for part in (sums, sizes))
        return np.log(total[1] / size[1]) - np.log(total[0] / size[0])

    gone = np.array([without(document) for document in range(12)])
    assert influence == pytest.approx(np.sqrt(11 / 12) * (gone.mean() - gone))
    assert intervals.variance(influence) == pytest.approx(11 / 12 * ((gone - gone.mean()) ** 2).sum())


def test_influence_of_a_difference_is_the_difference_of_influences():
    sums, sizes = documents(np.random.default_rng(2), 30, 0.1)
    _, both = intervals.jackknife(itself, sums, sizes)
    _, difference = intervals.jackknife(lambda means: means[1] - means[0], sums, sizes)
    assert difference == pytest.approx(both[1] - both[0])


def test_one_document_has_no_interval_and_no_difference_has_no_width():
    value, influence = intervals.jackknife(itself, np.ones((1, 1)), np.ones((1, 1)))
    assert np.isnan(intervals.document_interval(value, influence, 0.95)).all()
    value, influence = intervals.jackknife(lambda means: means - means, np.ones((1, 5)), np.ones((1, 5)))
    assert np.equal(intervals.document_interval(value, influence, 0.95), 0).all()


def test_few_large_documents_leave_few_degrees_of_freedom():
    normal = np.random.default_rng(0).normal(size=400)
    uneven = normal.copy()
    uneven[:5] = 40
    assert intervals.degrees_of_freedom(normal) == pytest.approx(399, rel=0.2)
    assert 1 <= intervals.degrees_of_freedom(uneven) < 12
    assert intervals.effective_documents(np.full(40, 7.0)) == pytest.approx(40)
    assert intervals.effective_documents(np.array([1.0, 1.0, 0.0, 2.0])) == pytest.approx(16 / 6)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_that_is_no_share_is_refused(confidence):
    for make in (
        lambda: intervals.t_interval(0, 1, 5, confidence),
        lambda: intervals.paired_shares(1, 1, 9, confidence),
    ):
        with pytest.raises(ValueError, match=f"not {confidence}"):
            make()


def test_paired_intervals_cover_the_truth():
    """95 % intervals of a relative error on simulated documents of uneven size with correlated tokens."""
    generator, repeats, truth, hits = np.random.default_rng(3), 1000, 0.02, 0
    for _ in range(repeats):
        value, influence = intervals.jackknife(lambda m: m[1] / m[0] - 1, *documents(generator, 80, truth))
        lower, upper = intervals.document_interval(value, influence, 0.95)
        hits += lower <= truth <= upper
    assert 0.93 <= hits / repeats <= 0.98


@pytest.mark.parametrize("count", [20, 100])
def test_score_intervals_of_paired_shares_cover_by_enumeration(count):
    gained, lost = (n.ravel() for n in np.meshgrid(np.arange(count + 1), np.arange(count + 1)))
    inside = gained + lost <= count
    gained, lost = gained[inside], lost[inside]
    lower, upper = intervals.paired_shares(gained, lost, count, 0.95)
    assert (upper - lower > 0).all()
    covered = []
    for discordant in (0.002, 0.01, 0.05, 0.1, 0.4):
        for share in (0.5, 0.7, 0.9, 1.0):
            up, down = discordant * share, discordant * (1 - share)
            outcomes = np.stack([gained, lost, count - gained - lost], axis=-1)
            chance = stats.multinomial.pmf(outcomes, count, [up, down, 1 - up - down])
            covered.append(chance[(lower <= up - down) & (up - down <= upper)].sum())
    assert min(covered) >= 0.93
    assert np.mean(covered) >= 0.955


def test_score_intervals_end_where_a_score_test_of_the_difference_rejects():
    (lower, mirrored, none), (upper, other, most) = intervals.paired_shares([12, 9, 0], [9, 12, 0], 100, 0.95)
    quantile = stats.norm.ppf(0.975)
    for bound, sign in ((lower, 1), (upper, -1)):

        def cost(lost, bound=bound):  # of shares lost + bound, lost, and the rest
            return -(12 * np.log(lost + bound) + 9 * np.log(lost) + 79 * np.log(1 - 2 * lost - bound))

        low, high = max(0.0, -bound) + 1e-9, (1 - bound) / 2 - 1e-9
        lost = optimize.minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-10}).x
        variance = (2 * lost + bound - bound**2) / 100
        assert (0.03 - bound) / np.sqrt(variance) == pytest.approx(sign * quantile, abs=1e-4)
    assert (mirrored, other) == pytest.approx((-upper, -lower))
    assert (none, most) == pytest.approx((-(quantile**2) / (100 + quantile**2), quantile**2 / (100 + quantile**2)))


def test_interval_of_a_mean_adds_the_squares_of_half_widths():
    average, lower, upper = intervals.interval_of_mean(np.array([1.0, 3.0]), np.array([0.4, 2.2]), np.array([1.3, 3.4]))
    assert (average, lower, upper) == pytest.approx((2, 2 - 0.5, 2 + 0.25))
