import numpy as np
import pytest
from scipy import stats

from scripts.lib.analysis import intervals
from scripts.lib.analysis.verdicts import (
    EQUAL,
    HIGHER,
    LOWER,
    Noise,
    Spread,
    holm,
    judge,
    monotone,
    power,
    runs_needed,
    slopes,
    spread_of,
)

EFFECTS = np.array([0.10, 0.12, 0.08, 0.15, 0.09])


@pytest.mark.parametrize(
    ("direction", "smallest", "verdict"),
    [
        (HIGHER, 0.05, "supported"),
        (HIGHER, 0.1, "undecided"),
        (HIGHER, 0.2, "refuted"),
        (LOWER, 0.05, "refuted"),
        (LOWER, 0.0, "refuted"),
        (EQUAL, 0.2, "supported"),
        (EQUAL, 0.1, "undecided"),
        (EQUAL, 0.05, "refuted"),
    ],
)
def test_verdicts_follow_where_the_interval_lies(direction, smallest, verdict):
    found = judge(EFFECTS, None, direction, smallest, 0.95)
    half = stats.t.ppf(0.975, 4) * EFFECTS.std(ddof=1) / np.sqrt(5)
    assert (found.effect, found.lower, found.upper) == pytest.approx((0.108, 0.108 - half, 0.108 + half))
    assert (found.verdict, found.runs) == (verdict, 5)
    assert (found.p <= 0.05) == (verdict != "undecided")
    assert (found.runs_needed or 0) > 5 * (verdict == "undecided") - 1


def test_a_claim_and_its_mirror_image_get_the_same_verdict():
    for smallest in (0.05, 0.1, 0.2):
        one, other = judge(EFFECTS, None, HIGHER, smallest, 0.95), judge(-EFFECTS, None, LOWER, smallest, 0.95)
        assert (one.verdict, one.p, one.runs_needed) == (other.verdict, pytest.approx(other.p), other.runs_needed)


def test_documents_that_runs_share_are_added_once():
    generator = np.random.default_rng(0)
    main, own = generator.normal(size=(1, 500)) * 0.002, generator.normal(size=(4, 500)) * 0.002
    influence = (main + own) - (main + own).mean(axis=1, keepdims=True)
    spread = spread_of(np.array([1.0, 1.1, 0.9, 1.2]), influence)
    assert spread.run == pytest.approx(np.var([1.0, 1.1, 0.9, 1.2], ddof=1))
    ((shared, freedom),) = spread.shared
    assert shared == pytest.approx(500 * 0.002**2, rel=0.25)
    assert shared < 0.9 * intervals.variance(influence.mean(axis=0))
    assert 300 < freedom < 500
    more = [spread.of_mean(runs)[0] for runs in (4, 100, 10_000)]
    assert more[0] > more[1] > more[2] > shared


def test_below_three_runs_there_is_an_interval_within_them_and_no_verdict():
    influence = np.tile(np.random.default_rng(1).normal(size=200) * 0.001, (2, 1))
    alone = judge(EFFECTS[:1], influence[:1], HIGHER, 0.0, 0.95)
    assert (alone.verdict, alone.runs, alone.runs_needed) == ("this run only", 1, None)
    assert np.isnan(alone.p)
    draws = Noise(0.02**2, 4)
    wider = judge(EFFECTS[:1], influence[:1], HIGHER, 0.0, 0.95, [draws])
    both = judge(EFFECTS[:2], influence, HIGHER, 0.0, 0.95, [draws])
    same = judge(EFFECTS[:2], influence, HIGHER, 0.0, 0.95, [Noise(0.02**2, 4, shared=True)])
    assert alone.upper - alone.lower < both.upper - both.lower < same.upper - same.lower
    assert wider.upper - wider.lower == pytest.approx(same.upper - same.lower)
    assert np.isnan([judge(EFFECTS[:1], None, HIGHER, 0.0, 0.95).lower]).all()


def test_own_noise_is_inside_the_spread_of_three_runs_and_shared_noise_is_not():
    plain, own, shared = (
        judge(EFFECTS, None, HIGHER, 0.0, 0.95, noise) for noise in ([], [Noise(1.0, 4)], [Noise(0.01, 4, shared=True)])
    )
    assert plain == own
    assert shared.upper > plain.upper


def test_unknown_noise_of_documents_leaves_a_claim_undecided():
    found = judge(EFFECTS, np.full((5, 1), np.nan), HIGHER, 0.0, 0.95)
    assert (found.verdict, found.runs_needed) == ("undecided", None)
    assert np.isnan([found.lower, found.upper]).all()


@pytest.mark.parametrize(
    ("effects", "influence", "direction", "smallest", "message"),
    [
        ([], None, HIGHER, 0.0, "one a run"),
        ([np.nan, 1.0, 1.0], None, HIGHER, 0.0, "finite"),
        (EFFECTS, np.zeros((3, 9)), HIGHER, 0.0, "shape"),
        (EFFECTS, None, "up", 0.0, "higher, lower, equal"),
        (EFFECTS, None, EQUAL, 0.0, "above 0 for equal"),
        (EFFECTS, None, HIGHER, -1.0, "from 0"),
    ],
)
def test_what_is_no_claim_is_refused(effects, influence, direction, smallest, message):
    with pytest.raises(ValueError, match=message):
        judge(effects, influence, direction, smallest, 0.95)


def test_runs_needed_are_the_fewest_with_the_power_of_the_t_test():
    spread = Spread(1.0, ())
    assert runs_needed(0.5, spread, HIGHER, 0.0, 0.95) == 34  # one-sample t, d = 0.5: 34 (Cohen 1988; G*Power)
    assert power(34, 0.5, spread, HIGHER, 0.0, 0.95) >= 0.8 > power(33, 0.5, spread, HIGHER, 0.0, 0.95)
    assert runs_needed(-1.0, spread, LOWER, 0.5, 0.95) == 34
    assert runs_needed(0.0, spread, HIGHER, 0.0, 0.95) is None
    assert runs_needed(0.5, Spread(1.0, ((1.0, 50.0),)), HIGHER, 0.0, 0.95) is None  # documents alone forbid it
    assert runs_needed(0.5, spread, HIGHER, 0.0, 0.99) > 34
    assert runs_needed(0.0, spread, EQUAL, 0.5, 0.95) > 34
    assert runs_needed(5.0, spread, HIGHER, 0.0, 0.95) == 3


def test_holm_takes_back_what_only_one_claim_alone_would_hold():
    generator = np.random.default_rng(0)
    claims = [(HIGHER, 0.0)] * 3
    verdicts = [judge(effect + 0.1 * generator.normal(size=5), None, HIGHER, 0.0, 0.95) for effect in (0.16, 0.16, 1.0)]
    verdicts.append(judge(EFFECTS[:2], None, HIGHER, 0.0, 0.95))
    adjusted = holm(verdicts, [*claims, (HIGHER, 0.0)], 0.95)
    order = np.argsort([verdict.p for verdict in verdicts[:3]])
    steps = [verdicts[index].p * left for index, left in zip(order, (3, 2, 1), strict=True)]
    assert [adjusted[index].p for index in order] == pytest.approx(np.minimum(np.maximum.accumulate(steps), 1))
    for before, after in zip(verdicts[:3], adjusted[:3], strict=True):
        assert after.verdict == (before.verdict if after.p <= 0.05 else "undecided")
        assert (after.lower, after.upper) == (before.lower, before.upper)
    assert adjusted[3] == verdicts[3]
    assert holm(verdicts[:1], claims[:1], 0.95) == verdicts[:1]


def test_holm_asks_for_more_runs_than_the_claim_alone():
    verdict = judge(EFFECTS, None, HIGHER, 0.075, 0.95)
    assert verdict.verdict == "undecided" or verdict.p <= 0.05
    many = holm([verdict] * 6, [(HIGHER, 0.075)] * 6, 0.95)[0]
    assert many.verdict == "undecided"
    assert many.runs_needed > runs_needed(verdict.effect, verdict.spread, HIGHER, 0.075, 0.95)


def test_slopes_are_least_squares_and_skip_missing_points():
    axis = np.array([0.0, 1.0, 3.0, 4.0])
    values = np.array([[1.0, 2.9, 7.2, 8.8], [0.0, np.nan, 6.0, 8.0], [1.0, np.nan, np.nan, np.nan]])
    influence = np.random.default_rng(0).normal(size=(3, 4, 6))
    found, shares = slopes(axis, values, influence)
    assert found[0] == pytest.approx(np.polyfit(axis, values[0], 1)[0])
    assert found[1] == pytest.approx(2.0)
    assert np.isnan(found[2])
    moved = slopes(axis, values[:1] + influence[:1, :, 2], None)[0][0] - found[0]
    assert shares[0, 2] == pytest.approx(moved)


def test_monotone_needs_every_step_and_is_denied_by_two_that_differ():
    noise = 0.05 * np.random.default_rng(0).normal(size=(5, 4))
    assert monotone(np.array([0, 1, 2, 3]) + noise, None, 0.95) is True
    assert monotone(-np.array([0, 1, 2, 3]) + noise, None, 0.95) is True
    assert monotone(np.array([0, 1, 2, 1]) + noise, None, 0.95) is False
    assert monotone(np.array([0, 1, 1, 2]) + noise, None, 0.95) is None
    assert monotone((np.array([0, 1, 2, 3]) + noise)[:2], None, 0.95) is None
    shared = np.zeros((5, 4, 50))
    shared[:, 2] = np.random.default_rng(1).normal(size=50)
    assert monotone(np.array([0, 1, 2, 3]) + noise, shared, 0.95) is None  # documents move one point of all runs
