"""Verdicts on claims about training, with the run as the unit: what one seed makes is one observation.

An effect is computed within each run. Runs are crossed with documents: every run is measured on the same ones. So

    variance of the mean effect = S^2 / R + shared,

where S^2 is the variance between the R runs' effects, and `shared` that part of the documents' noise that all runs have
in common and more runs do not lower: the mean covariance of two runs' influence values (analysis/intervals.py).
What documents do to one run alone, draws of calibration text that each run makes for itself, and neighbouring
checkpoints are inside S^2 and are not counted again. The interval is Student's t with degrees of freedom between those
of the parts (`_sum`). It was chosen by simulated coverage (tests/simulation.md): 93 to 97 % from three runs on, where
documents' intervals taken for training cover far less.

Below three runs there is no verdict, only an interval within these runs. All functions are pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from scripts.lib.analysis import intervals
from scripts.lib.analysis.identifiability import MIN_RUNS

HIGHER, LOWER, EQUAL = DIRECTIONS = ("higher", "lower", "equal")
SUPPORTED, REFUTED, UNDECIDED, THIS_RUN_ONLY = "supported", "refuted", "undecided", "this run only"
MOST_RUNS = 1000  # as many are not asked for
POWER = 0.8  # of `runs_needed`
QUANTILES = 50  # of the variance between runs that may be found, for `power`
SHARPNESS = 1.5  # how quickly a part that leads sets the degrees of freedom, see `_sum`


@dataclass(frozen=True)
class Noise:
    """Another source of noise of one run's effect, beside documents.

    Attributes:
        variance: of the effect, in its unit squared.
        degrees_of_freedom: of the variance.
        shared: True: the same in all runs (one draw of calibration text for all); False: each run has its own, which
            counts below three runs only, since the spread between runs holds it.
    """

    variance: float
    degrees_of_freedom: float
    shared: bool = False


@dataclass(frozen=True)
class Spread:
    """What the interval of a mean effect is made of.

    Attributes:
        run: variance between runs' effects; 0 below three runs.
        shared: parts of the variance of the mean that do not shrink with the number of runs: (variance, degrees of
            freedom) each. Below three runs: all parts.
    """

    run: float
    shared: tuple[tuple[float, float], ...]

    def of_mean(self, runs: int) -> tuple[float, float]:
        """Variance of the mean over so many runs, and its degrees of freedom; not a number without any variance."""
        return _sum([(self.run / runs, max(runs - 1, 1)), *self.shared])


@dataclass(frozen=True)
class Verdict:
    """What runs say about a claim.

    Attributes:
        effect, lower, upper: mean over runs with its interval, in the effect's unit; the bounds are not numbers where
            nothing is known of the noise. Below three runs the interval is that within these runs.
        verdict: SUPPORTED, REFUTED, UNDECIDED or THIS_RUN_ONLY.
        runs: number of runs.
        runs_needed: of an undecided claim: with so many runs it would be decided at 80 % power if effect and spread are
            as estimated; None: not with `MOST_RUNS`, or not asked.
        p: two-sided p-value of the verdict that lies nearest; adjusted after `holm`; not a number below three runs.
        spread: what the interval is made of.
    """

    effect: float
    lower: float
    upper: float
    verdict: str
    runs: int
    runs_needed: int | None
    p: float
    spread: Spread


def judge(
    effects: np.ndarray,
    influence: np.ndarray | None,
    direction: str,
    smallest: float,
    confidence: float,
    noise: Sequence[Noise] = (),
) -> Verdict:
    """Judge one claim.

    `higher`: supported if the whole interval lies above +smallest, refuted if wholly below it. `lower`: the mirror
    image at -smallest. `equal`: supported if the interval lies inside -+smallest, refuted if wholly outside. Else
    undecided. An effect exactly on the line is so called supported, or refuted, in (1 - confidence) / 2 of cases.

    Args:
        effects: one a run, shape (runs,), signed as this minus its reference.
        influence: documents' influence values on each, shape (runs, documents), the same documents in the same columns
            (0 where a run did not see one); None: documents are no source of noise that runs share. Where they are not
            numbers (a single document) the noise is unknown: no bounds, and undecided.
        direction: HIGHER, LOWER or EQUAL.
        smallest: the smallest effect that matters, in the effects' unit; from 0, for EQUAL above 0.
        confidence: coverage of the interval, 0.95 say.
        noise: other sources.

    Raises:
        ValueError: no run, an effect that is not finite, shapes that do not fit, or a claim that is none.
    """
    effects = np.asarray(effects, dtype=float)
    _check_claim(direction, smallest)
    spread = spread_of(effects, influence, noise)
    effect, runs = float(effects.mean()), len(effects)
    lower, upper = _interval(effect, spread, runs, confidence)
    if runs < MIN_RUNS:
        return Verdict(effect, lower, upper, THIS_RUN_ONLY, runs, None, np.nan, spread)
    side, p = _decision(effect, spread, runs, direction, smallest)
    if p <= 1 - confidence:
        return Verdict(effect, lower, upper, side, runs, None, p, spread)
    needed = runs_needed(effect, spread, direction, smallest, confidence, runs)
    return Verdict(effect, lower, upper, UNDECIDED, runs, needed, p, spread)


def across_runs(
    effects: np.ndarray, influence: np.ndarray | None, confidence: float, noise: Sequence[Noise] = ()
) -> tuple[float, float, float]:
    """Mean effect over runs with its interval, arguments as of `judge`: (effect, lower, upper)."""
    effects = np.asarray(effects, dtype=float)
    effect = float(effects.mean())
    return effect, *_interval(effect, spread_of(effects, influence, noise), len(effects), confidence)


def spread_of(effects: np.ndarray, influence: np.ndarray | None, noise: Sequence[Noise] = ()) -> Spread:
    """What the interval of the mean effect over runs is made of, arguments as of `judge`.

    From three runs on documents count with the mean covariance between two runs, which leaves out what `run` holds
    already; below, with their whole variance on the mean.

    Raises:
        ValueError: no run, an effect that is not finite, or shapes that do not fit.
    """
    runs = len(effects)
    if not runs or not np.isfinite(effects).all():
        raise ValueError(f"effects must be finite, one a run, not {list(effects)}")
    if influence is not None and (np.ndim(influence) != 2 or len(influence) != runs):
        raise ValueError(f"influence has shape {np.shape(influence)}, not ({runs} runs, documents)")
    across = runs >= MIN_RUNS
    parts = [
        (source.variance / (1 if source.shared else runs), source.degrees_of_freedom)
        for source in noise
        if source.shared or not across
    ]
    if influence is not None:
        mean = influence.mean(axis=0)
        whole, own = float(intervals.variance(mean)), float(intervals.variance(influence).sum()) / runs**2
        documents = (whole - own) * runs / (runs - 1) if across else whole
        parts.append((documents if not documents < 0 else 0.0, float(intervals.degrees_of_freedom(mean))))
    return Spread(float(np.var(effects, ddof=1)) if across else 0.0, tuple(part for part in parts if part[0] != 0))


def runs_needed(
    effect: float, spread: Spread, direction: str, smallest: float, confidence: float, runs: int = MIN_RUNS - 1
) -> int | None:
    """With how many runs, more than `runs`, a claim is decided at 80 % power, were effect and spread the truth.

    None where `MOST_RUNS` do not do: the effect is too near to the line, or the documents that runs share are too few.
    """
    arguments = effect, spread, direction, smallest, confidence
    if not power(MOST_RUNS, *arguments) >= POWER:
        return None
    low, high = max(runs, MIN_RUNS - 1), MOST_RUNS  # power rises with the number of runs
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle, *arguments) >= POWER else (middle, high)
    return high


def power(runs: int, effect: float, spread: Spread, direction: str, smallest: float, confidence: float) -> float:
    """With what probability so many runs decide a claim, the way that fits the effect.

    The mean is normal, the variance that is found between runs is a chi-square on its own: for each of its quantiles
    the half width of the interval is known, and the probability that the mean lies so far from the line is averaged.
    """
    variance, _ = spread.of_mean(runs)
    lines = _lines(direction, smallest)
    distance = min(abs(effect - line) for line in lines)
    if variance == 0:
        return float(distance > 0)
    chances = (np.arange(QUANTILES) + 0.5) / QUANTILES
    found = spread.run * special.chdtri(runs - 1, chances) / (runs - 1)
    variances, freedom = _sum([(found / runs, runs - 1), *spread.shared])
    half = special.stdtrit(freedom, (1 + confidence) / 2) * np.sqrt(variances)
    if direction == EQUAL and abs(effect) < smallest:
        up, down = ((line - effect) / np.sqrt(variance) for line in (smallest - half, half - smallest))
        decided = np.maximum(special.ndtr(up) - special.ndtr(down), 0.0)
    else:
        decided = special.ndtr((distance - half) / np.sqrt(variance))
    return float(decided.mean())


def holm(verdicts: Sequence[Verdict], claims: Sequence[tuple[str, float]], confidence: float) -> list[Verdict]:
    """The verdicts on a study's primary claims, corrected for their number (Holm, Scand. J. Statistics 6, 1979).

    A verdict that does not hold after the correction becomes undecided, with the runs that would decide it at the level
    at which it failed. Intervals stay those of each claim alone. Claims below three runs are not counted.

    Args:
        verdicts: of `judge`.
        claims: (direction, smallest) of each.
        confidence: 1 - the probability of one wrong verdict or more.
    """
    tested = [index for index in range(len(verdicts)) if np.isfinite(verdicts[index].p)]
    adjusted, worst = list(verdicts), 0.0
    for done, index in enumerate(sorted(tested, key=lambda index: verdicts[index].p)):
        verdict, left = verdicts[index], len(tested) - done
        worst = max(worst, min(1.0, verdict.p * left))
        changed = replace(verdict, p=worst)
        if worst > 1 - confidence:
            level = 1 - (1 - confidence) / left
            needed = runs_needed(verdict.effect, verdict.spread, *claims[index], level, verdict.runs)
            changed = replace(changed, verdict=UNDECIDED, runs_needed=needed)
        adjusted[index] = changed
    return adjusted


def slopes(axis: np.ndarray, values: np.ndarray, influence: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Least-squares slope of each run's values over an axis, and its influence values: effects for `across_runs`.

    Args:
        axis: shape (points,), two different values or more, transformed as the slope is meant (a logarithm, say).
        values: shape (runs, points); not a number where a run lacks a point.
        influence: shape (runs, points, documents), or None.

    Returns:
        Slopes, unit of values by unit of axis, shape (runs,), not a number for a run with fewer than two different
        points; their influence values, shape (runs, documents), or None.
    """
    known = np.isfinite(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = np.where(known, axis, 0.0).sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True)
        offset = np.where(known, axis - centre, 0.0)
        weights = offset / (offset**2).sum(axis=1, keepdims=True)
    found = (weights * np.where(known, values, 0.0)).sum(axis=1)
    if influence is None:
        return found, None
    return found, np.einsum("rp,rpd->rd", weights, np.where(known[..., None], influence, 0.0))


def monotone(values: np.ndarray, influence: np.ndarray | None, confidence: float) -> bool | None:
    """Whether values rise, or fall, at every step along an axis, over runs.

    True: the interval of every step lies on the same side of 0. False: two steps' intervals lie on opposite sides, each
    interval widened for the number of steps (Bonferroni). None: the runs do not tell, or a step has fewer than three.

    Args:
        values: shape (runs, points), points in the order of the axis; not a number where a run lacks a point.
        influence: shape (runs, points, documents), or None.
        confidence: coverage of each interval.
    """
    steps = np.diff(values, axis=1)
    wide = 1 - (1 - confidence) / max(1, steps.shape[1])
    signs, sure = [], []
    for step in range(steps.shape[1]):
        known = np.isfinite(steps[:, step])
        if known.sum() < MIN_RUNS:
            return None
        documents = None if influence is None else influence[known, step + 1] - influence[known, step]
        signs.append(_sign(*across_runs(steps[known, step], documents, confidence)[1:]))
        sure.append(_sign(*across_runs(steps[known, step], documents, wide)[1:]))
    if {-1, 1} <= set(sure):
        return False
    return True if signs and signs[0] != 0 and len(set(signs)) == 1 else None


def _sign(lower: float, upper: float) -> int:
    return int(lower > 0) - int(upper < 0)


def _interval(effect: float, spread: Spread, runs: int, confidence: float) -> tuple[float, float]:
    """Bounds; not numbers where fewer than three runs have no known noise."""
    variance, freedom = spread.of_mean(runs)
    if runs < MIN_RUNS and variance == 0:
        return np.nan, np.nan
    lower, upper = intervals.t_interval(effect, variance, freedom, confidence)
    return float(lower), float(upper)


def _sum(parts: Sequence[tuple]) -> tuple:
    """Variance of a sum of independent parts, (variance, degrees of freedom) each, and its degrees of freedom.

    1 / df = sum w^1.5 / df_i with the parts' shares w of the variance. Satterthwaite has w^2, which is right if the
    shares are known; where three runs tell them it covers 92.6 % of a nominal 95 (tests/simulation.md), and w^1 up to
    98 %.
    """
    total = sum(variance for variance, _ in parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total, 1 / sum(np.divide(variance, total) ** SHARPNESS / freedom for variance, freedom in parts)


def _lines(direction: str, smallest: float) -> tuple[float, ...]:
    """Where verdicts change."""
    return {HIGHER: (smallest,), LOWER: (-smallest,), EQUAL: (-smallest, smallest)}[direction]


def _decision(effect: float, spread: Spread, runs: int, direction: str, smallest: float) -> tuple[str, float]:
    """The verdict nearest to hand, and its two-sided p-value: decided at a confidence of at most 1 - p."""
    variance, freedom = spread.of_mean(runs)
    lines = _lines(direction, smallest)
    distances = np.abs(effect - np.array(lines))
    known = special.stdtr(freedom, -distances / np.sqrt(variance)) if variance else None
    tails = np.where(distances > 0, 0.0, 0.5) if known is None else known
    inside = direction == EQUAL and abs(effect) < smallest
    supported = {HIGHER: effect > lines[0], LOWER: effect < lines[0], EQUAL: inside}[direction]
    return SUPPORTED if supported else REFUTED, float(2 * tails.max())


def _check_claim(direction: str, smallest: float) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, not {direction}")
    if not (np.isfinite(smallest) and smallest >= 0) or (direction == EQUAL and smallest == 0):
        raise ValueError(f"the smallest effect that matters must be from 0 (above 0 for equal), not {smallest}")
