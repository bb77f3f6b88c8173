"""How well laws predict what they were not fitted to, beside baselines, with intervals over what was left out.

What a law predicts is how a run goes on: from the run's last known checkpoint by the law's own ratio between the two.
Where bits are left out, it goes from the same checkpoint at the nearest number of bits.
Baselines know as much: 'same as the last checkpoint' is the ratio 1. An error is the logarithm of prediction over
measurement, so that 0.05 is about 5 %.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import special

from scripts.lib.analysis import noise
from scripts.lib.analysis.laws import fitting
from scripts.lib.analysis.laws.fitting import LEAST_RUNS, Fit
from scripts.lib.analysis.laws.forms import KL, LOSS, PENALTY, Law
from scripts.lib.analysis.laws.problems import Problem, before

SEEDS, SETTINGS, HORIZON, COOLDOWNS, BITS = "seeds", "settings", "horizon", "cooldowns", "bits"
SPLITS = {  # what is predicted, for people
    SEEDS: "seeds left out",
    SETTINGS: "settings left out",
    HORIZON: "longer horizons",
    COOLDOWNS: "ends of cooldowns of runs left out",
    BITS: "bits left out",
}
FURTHER = 1.25  # times the tokens that a law was fitted up to, from which on a horizon is longer
DECAY = "decay"
NOTHING = "nothing of this kind can be left out"
SAME = 1e-6  # of errors on logarithms: below this two laws are the same law here
LEAST_GAIN = 0.1  # of an error, by which a lower one must be lower to count
BEST, TIES, WORSE, ALONE = "best", "ties with the best", "worse than the best", "too few to compare"


@dataclass(frozen=True)
class Fold:
    """What a law is fitted to, and what it has to predict.

    Attributes:
        name: of what is left out.
        kept: cells that the law is fitted to, a mask.
        targets: pairs of cells (from, to): the change between them is predicted.
    """

    name: str
    kept: np.ndarray
    targets: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Score:
    """How a law did in a split.

    Attributes:
        errors: of each thing that was left out, in order, the root mean square of its errors.
        mean, lower, upper: over them, with the interval of Student's t; no bounds with fewer than three.
        cells: that were predicted.
        reason: why there is no score, if there is none.
    """

    errors: np.ndarray
    mean: float | None
    lower: float | None
    upper: float | None
    cells: int
    reason: str | None = None


class Fits:
    """The fits of a problem, each made once: splits and the jackknife over runs leave out the same cells."""

    def __init__(self, problem: Problem):
        self.problem, self.known = problem, {}

    def without(self, law: Law, kept: np.ndarray) -> Fit | str:
        """The fit to some cells, or why there is none."""
        key = law.name, kept.tobytes()
        if key not in self.known:
            cells = self.problem.cells
            whole = self.known.get((law.name, np.ones(len(kept), bool).tobytes()))
            like = whole if isinstance(whole, Fit) else None
            starts = fitting.STARTS if like is None else fitting.FEW_STARTS
            reason = fitting.too_few(law, cells, kept)
            self.known[key] = reason or fitting.fit(law, cells, kept, like, starts)
        return self.known[key]

    def whole(self, law: Law) -> Fit | str:
        """The fit to all cells."""
        return self.without(law, np.ones(len(self.problem.rows), bool))


def splits(problem: Problem) -> Iterator[tuple[str, list[Fold]]]:
    """Each way of leaving something out that the problem has at least two runs for, with its folds."""
    seeds, settings, roots = (_column(problem, name) for name in ("seed", "setting", "root"))
    by_seed = [] if None in set(seeds) else _leave_out(problem, seeds)
    by_setting = _leave_out(problem, settings)
    yield SEEDS, by_seed
    yield SETTINGS, by_setting
    yield HORIZON, _longer(problem, roots)
    yield COOLDOWNS, [_of_cooldowns(problem, fold) for fold in by_seed or by_setting]
    yield BITS, _of_bits(problem) if problem.methods else []


def _of_bits(problem: Problem) -> list[Fold]:
    """A fold for each number of bits, where there are three: each cell of it, from the nearest other number of bits."""
    bits, points = _column(problem, "bits"), [(row["trajectory"], row["checkpoint"]) for row in problem.rows]
    known = sorted(set(bits) - {None})
    folds = []
    for left in known if len(known) >= LEAST_RUNS else []:
        pairs = []
        for number in np.flatnonzero(bits == left):
            beside = [other for other in np.flatnonzero(bits != left) if points[other] == points[number]]
            pairs += [(min(beside, key=lambda other: abs(bits[other] - left)), number)] if beside else []
        folds.append(Fold(f"{left} bits", bits != left, tuple(pairs)))
    return [fold for fold in folds if fold.targets]


def _column(problem: Problem, name: str) -> np.ndarray:
    return np.array([row[name] for row in problem.rows], dtype=object)


def _leave_out(problem: Problem, names: np.ndarray) -> list[Fold]:
    """A fold for each name; none if there is only one."""
    known = sorted(set(names), key=str)
    if len(known) < 2:
        return []
    folds = []
    for name in known:
        numbers = np.flatnonzero(names == name)
        pairs = tuple((source, n) for n in numbers if (source := before(problem, int(n))) is not None)
        folds.append(Fold(str(name), names != name, pairs))
    return [fold for fold in folds if fold.targets]


def _longer(problem: Problem, roots: np.ndarray) -> list[Fold]:
    """A fold for each run: its cells of more than 1 / FURTHER of the most tokens, from its own last one before.

    Laws are fitted to such early cells of the other runs; where a study has only one run, to its own.
    """
    tokens = np.array([row["tokens"] for row in problem.rows], float)
    early = tokens <= tokens.max() / FURTHER
    folds, names = [], sorted(set(roots))
    for name in names:
        kept = early & (roots != name) if len(names) > 1 else early
        pairs = []
        for number in np.flatnonzero((roots == name) & ~early):
            source = before(problem, int(number))
            while source is not None and not early[source]:
                source = before(problem, source)
            pairs += [] if source is None else [(source, int(number))]
        folds.append(Fold(str(name), kept, tuple(pairs)))
    return [fold for fold in folds if fold.targets]


def _of_cooldowns(problem: Problem, fold: Fold) -> Fold:
    """The fold with the ends of its cooldowns as targets, each from its trunk's last checkpoint before it."""
    rows = problem.rows
    pairs = []
    for number in np.flatnonzero(~fold.kept):
        row = rows[number]
        last = max(other["step"] for other in rows if other["trajectory"] == row["trajectory"])
        if row["kind"] == "branch" and row["phase"] == DECAY and row["step"] == last:
            source = before(problem, int(number), row["start"] + 1)
            pairs += [] if source is None else [(source, int(number))]
    return Fold(fold.name, fold.kept, tuple(pairs))


def predictions(fits: Fits, law: Law, folds: Iterable[Fold]) -> list[np.ndarray] | str:
    """Logarithms that a law predicts for the targets of each fold that has some, (targets,), or why there are none."""
    found, cells = [], fits.problem.cells
    for fold in folds:
        if not fold.targets:
            continue
        fit = fits.without(law, fold.kept)
        if isinstance(fit, str):
            return fit
        logs = fit.logs(cells.points)[cells.index]
        source, target = np.array(fold.targets).T
        found.append(logs[target] - logs[source] + cells.logs[source])
    return found or NOTHING


def errors_of(fits: Fits, law: Law, folds: list[Fold]) -> list[np.ndarray] | str:
    """Errors of each fold that has targets, (targets,), or why there are none."""
    found = predictions(fits, law, folds)
    if isinstance(found, str):
        return found
    ends = [np.array(fold.targets)[:, 1] for fold in folds if fold.targets]
    return [part - fits.problem.cells.logs[end] for part, end in zip(found, ends, strict=True)]


def score(errors: list[np.ndarray] | str, confidence: float) -> Score:
    """The score of a law from its errors."""
    if isinstance(errors, str):
        return Score(np.empty(0), None, None, None, 0, errors)
    each = np.array([np.sqrt((part**2).mean()) for part in errors])
    lower, upper = _interval(each, confidence) or (None, None)
    lower = None if lower is None else max(lower, 0.0)
    return Score(each, float(each.mean()), lower, upper, sum(map(len, errors)))


def _interval(values: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """Student's interval of a mean; None with fewer than three values."""
    if len(values) < LEAST_RUNS:
        return None
    half = special.stdtrit(len(values) - 1, (1 + confidence) / 2) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def beats(one: Score, other: Score, confidence: float, floor: float | None = None) -> bool:
    """Whether a score is lower than another on the same folds: the paired interval lies below zero, the gain is no
    trifle, and not both are as low as noise allows.

    Args:
        one, other: scores of the same split.
        confidence: of the interval.
        floor: noise of what is predicted, if it is known.
    """
    difference = one.errors - other.errors
    bounds = _interval(difference, confidence)
    if bounds is None or bounds[1] >= 0 or (floor is not None and max(one.mean, other.mean) <= floor):
        return False
    return -difference.mean() > LEAST_GAIN * other.mean


def same(one: Score, other: Score) -> bool:
    """Whether two laws predict the same here, so that no data of this kind can tell them apart."""
    return len(one.errors) == len(other.errors) > 0 and bool(np.abs(one.errors - other.errors).max() < SAME)


def verdicts(scores: dict[str, Score], confidence: float, floor: float | None) -> dict[str, str]:
    """Of each law that was scored in a split: best if it beats every other one; a tie is told as a tie."""
    known = {name: found for name, found in scores.items() if found.mean is not None}
    if any(len(found.errors) < LEAST_RUNS for found in known.values()) or len(known) < 2:
        return dict.fromkeys(known, ALONE)
    lowest = min(known, key=lambda name: known[name].mean)
    told = {}
    for name, found in known.items():
        others = [other for key, other in known.items() if key != name]
        if all(beats(found, other, confidence, floor) for other in others):
            told[name] = BEST
        else:
            told[name] = WORSE if beats(known[lowest], found, confidence, floor) else TIES
    return told


@dataclass(frozen=True)
class Noise:
    """Noise of a change between two checkpoints of a run, as a standard deviation of its logarithm.

    value: over the methods that the study replicates; None if it replicates none.
    methods: these.
    """

    value: float | None
    methods: tuple[str, ...]

    def floor(self, problem: Problem) -> float | None:
        """Below which errors tell nothing; None unless it is known of all methods."""
        return self.value if self.methods == problem.methods else None


def noise_of_change(ledger: pl.DataFrame, problem: Problem) -> Noise:
    """Standard deviation of the logarithm of a change between two checkpoints of a run, by noise alone.

    From what the table `noise` has of neighbouring checkpoints and draws of calibration text; documents are the same on
    both sides, and seeds are not what differs. That of a loss before quantization is taken from losses after it.
    """
    known = ledger.filter(
        pl.col("source").is_in([noise.NEIGHBOURS, noise.CALIBRATION]),
        pl.col("measure") == {LOSS: "loss", PENALTY: "penalty", KL.name: KL.name}[problem.quantity],
        pl.col("dataset") == problem.dataset,
        pl.col("standard_deviation").is_not_null(),
    )
    if problem.methods:
        known = known.filter(pl.col("method").is_in(problem.methods))
    else:  # calibration moves no unquantized model
        known = known.filter(pl.col("source") == noise.NEIGHBOURS)
    found = {}
    for (method,), part in known.group_by("method"):
        values = [row["value"] for row in problem.rows if not problem.methods or row["recipe"] == method]
        typical = 1.0 if problem.quantity == KL.name else float(np.median(values))
        found[method] = (part["standard_deviation"] ** 2).sum() / typical**2
    value = float(np.sqrt(2 * np.mean([found[name] for name in sorted(found)]))) if found else None
    return Noise(value, tuple(name for name in problem.methods if name in found))
