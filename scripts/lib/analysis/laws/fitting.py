"""Fits of a law: Huber's loss on logarithms from many starts, what the data do not determine, and intervals by runs."""

from dataclasses import dataclass, field

import numpy as np
from scipy import optimize, special

from scripts.lib.analysis.laws.forms import Law, Parameter
from scripts.lib.analysis.laws.histories import Points

STARTS, FEW_STARTS = 12, 2
KEPT = 3  # of the starts go on after a few steps
SEED = 20
STEPS, FEW_STEPS = 60, 8  # of an optimization, times its parameters
WEAK = 1e-6
TUNING = 1.345  # standard deviations where Huber's loss turns linear: 95 % efficient for normal errors
LEAST_SCALE = 1e-5  # of residuals on logarithms
EDGE = 6.0  # of a parameter's place between its bounds, on the logistic scale: 0.25 % from either
LEAST_RUNS = 3  # for an interval over runs


@dataclass(frozen=True)
class Cells:
    """What a law is fitted to: the logarithm of a quantity, and of each cell its point and its unit of resampling.

    Attributes:
        points: what laws know.
        index: of each cell, its point, (cells,).
        logs: logarithm of the quantity, (cells,).
        units: of each cell, the run (or seed) that it belongs to, (cells,).
    """

    points: Points
    index: np.ndarray
    logs: np.ndarray
    units: np.ndarray


@dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
        law: which one.
        free: parameters that were fitted; the others are held.
        place: of the free ones between their bounds, on a logistic scale.
        values: of all parameters, in the law's order.
        total: sum of squares of the residuals, as Huber's loss counts them, in units of `scale` squared.
        scale: of residuals, on logarithms; robust.
    """

    law: Law
    free: tuple[Parameter, ...]
    place: np.ndarray = field(compare=False)
    values: np.ndarray = field(compare=False)
    total: float = 0.0
    scale: float = LEAST_SCALE

    def logs(self, points: Points) -> np.ndarray:
        """The logarithm that the law gives at all points."""
        return self.law.log_value(points, *self.values)


def free_parameters(law: Law, cells: Cells, chosen: np.ndarray) -> tuple[Parameter, ...]:
    """Parameters of a law that these cells can say something about by their design."""
    points = np.unique(cells.index[chosen])
    return tuple(p for p in law.parameters if p.needs is None or cells.points.varies(p.needs, points))


def too_few(law: Law, cells: Cells, chosen: np.ndarray) -> str | None:
    """Why a law cannot be fitted to these cells; None if it can."""
    points, needed = len(np.unique(cells.index[chosen])), len(free_parameters(law, cells, chosen)) + 1
    if law.parameters and points < needed:
        told = "1 checkpoint is" if points == 1 else f"{points} different checkpoints are"
        return f"{told} too few for {needed - 1} parameters"
    return None


def fit(law: Law, cells: Cells, chosen: np.ndarray, like: Fit | None = None, starts: int = STARTS) -> Fit:
    """Fit a law to some cells: least squares from many starts, then Huber's loss from the best of them.

    Args:
        law: which one.
        cells, chosen: the cells, and which of them count (a mask).
        like: a fit to similar data, as one more start.
        starts: how many others, drawn between the bounds; always the same.
    """
    free = free_parameters(law, cells, chosen)
    if not free:
        return Fit(law, (), np.empty(0), np.array([p.held for p in law.parameters]))
    problem = _Problem(law, free, cells, chosen)
    best = problem.best(_starts(len(free), starts, like, free))
    for _ in range(2):
        scale = max(1.4826 * float(np.median(np.abs(problem.residuals(best)))), LEAST_SCALE)
        best = problem.solve(best, TUNING * scale)
    total = problem.squares(best, TUNING * scale) / scale**2
    return Fit(law, free, best, problem.values(best), total, scale)


def _starts(size: int, count: int, like: Fit | None, free: tuple[Parameter, ...]) -> list[np.ndarray]:
    found = [np.zeros(size), *np.random.default_rng(SEED).uniform(-2.5, 2.5, (count, size))]
    if like is not None and like.free == free:
        found = [np.clip(like.place, -EDGE, EDGE), *found[1:]]
    return found


class _Problem:
    """Residuals of a law on some cells, as a function of the place of its free parameters between their bounds."""

    def __init__(self, law: Law, free: tuple[Parameter, ...], cells: Cells, chosen: np.ndarray, fixed=None):
        self.law, self.free, self.points = law, free, cells.points
        self.index, self.logs = cells.index[chosen], cells.logs[chosen]
        self.fixed = fixed or {}  # further parameters at a place of their own
        bounds = np.array([_bounds(p) for p in law.parameters])
        self.low, self.span = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
        self.logarithmic = np.array([p.logarithmic for p in law.parameters])
        self.held = np.array([p.held for p in law.parameters])
        self.slots = [law.parameters.index(p) for p in free]
        self.fixed_slots = [law.parameters.index(p) for p in self.fixed]

    def values(self, place: np.ndarray) -> np.ndarray:
        """All parameters."""
        where = np.zeros(len(self.held))
        where[self.slots] = place
        where[self.fixed_slots] = list(self.fixed.values())
        inner = self.low + self.span * special.expit(where)
        values = np.where(self.logarithmic, np.exp(inner), inner)
        known = np.zeros(len(values), bool)
        known[self.slots + self.fixed_slots] = True
        return np.where(known, values, self.held)

    def residuals(self, place: np.ndarray) -> np.ndarray:
        return self.law.log_value(self.points, *self.values(place))[self.index] - self.logs

    def squares(self, place: np.ndarray, turn: float = np.inf) -> float:
        return float((_huber(self.residuals(place), turn) ** 2).sum())

    def best(self, starts: list[np.ndarray], turn: float = np.inf) -> np.ndarray:
        """The lowest place that is found from some starts, of which the best go on after a few steps."""
        tried = [self.solve(start, turn, FEW_STEPS) for start in starts]
        tried = sorted(tried, key=lambda place: self.squares(place, turn))[:KEPT]
        return min((self.solve(place, turn) for place in tried), key=lambda place: self.squares(place, turn))

    def solve(self, start: np.ndarray, turn: float = np.inf, steps: int = STEPS) -> np.ndarray:
        """Least squares of Huber's residuals by Levenberg and Marquardt.

        What the data leave open is drawn to the middle of its bounds, by too little to be seen elsewhere; where the
        steps run out, the place that was reached counts, for other starts go on from elsewhere.
        """
        if not len(start):
            return start

        def told(place):
            return np.concatenate([_huber(self.residuals(place), turn), WEAK * place])

        most = steps * (len(start) + 1)
        found, *_ = optimize.leastsq(told, start, ftol=1e-9, xtol=1e-7, maxfev=most, full_output=True)
        return np.clip(found, -3 * EDGE, 3 * EDGE)


def _bounds(parameter: Parameter) -> tuple[float, float]:
    bounds = parameter.lower, parameter.upper
    return tuple(np.log(bounds)) if parameter.logarithmic else bounds


def _huber(residuals: np.ndarray, turn: float) -> np.ndarray:
    """Residuals whose squares are twice Huber's loss: sqrt(2 turn |r| - turn^2) beyond `turn`, with their signs."""
    if np.isinf(turn):
        return residuals
    size = np.abs(residuals)
    return np.where(size <= turn, residuals, np.sign(residuals) * np.sqrt(np.maximum(2 * turn * size - turn**2, 0)))


def undetermined(found: Fit, cells: Cells, chosen: np.ndarray, confidence: float) -> set[str]:
    """Parameters that the data leave open: their profile likelihood reaches a bound below the threshold of chi-squared.

    All other parameters are fitted anew with the one at each of its bounds. Cells of a run are alike, so that the
    threshold is multiplied by their design effect, 1 + (cells a run - 1) x intraclass correlation (Kish 1965).
    """
    count, fitted = int(chosen.sum()), len(found.free)
    residual = found.logs(cells.points)[cells.index[chosen]] - cells.logs[chosen]
    freedom = max(count - fitted, 1)
    variance = max(found.total / freedom, 1e-12)
    threshold = special.chdtri(1, 1 - confidence) * variance * design_effect(residual, cells.units[chosen])
    open_ones = set()
    for parameter in found.free:
        others = tuple(p for p in found.free if p is not parameter)
        keep = [p is not parameter for p in found.free]
        for edge in (-EDGE, EDGE):
            problem = _Problem(found.law, others, cells, chosen, {parameter: edge})
            starts = [found.place[keep], *_starts(len(others), FEW_STARTS, None, others)]
            turn = TUNING * found.scale
            least = problem.squares(problem.best(starts, turn), turn) / found.scale**2
            if least - found.total < threshold:
                open_ones.add(parameter.name)
    return open_ones


def design_effect(residuals: np.ndarray, units: np.ndarray) -> float:
    """How many times less cells say than as many independent ones would; 1 where cells of a unit are not alike."""
    names, codes, counts = np.unique(units, return_inverse=True, return_counts=True)
    if len(names) < 2 or len(names) == len(units):
        return 1.0
    means = np.bincount(codes, residuals) / counts
    inside = float(((residuals - means[codes]) ** 2).sum() / (len(units) - len(names)))
    between = float((counts * (means - residuals.mean()) ** 2).sum() / (len(names) - 1))
    size = (len(units) - (counts**2).sum() / len(units)) / (len(names) - 1)
    correlation = (between - inside) / (between + (size - 1) * inside) if between + inside > 0 else 0.0
    return 1 + (size - 1) * min(max(correlation, 0.0), 1.0)


def intervals(found: Fit, without: list[Fit], confidence: float) -> dict[str, tuple[float, float]]:
    """Intervals of the free parameters over runs: the jackknife that leaves out one at a time, and Student's t.

    Percentiles of resampled runs cover too little where runs are few. On the scale on which the parameter is looked
    for: logarithmic ones have intervals on logarithms. None with fewer than three runs, or where a fit without one has
    other free parameters.
    """
    runs = len(without)
    if runs < LEAST_RUNS or any(other.free != found.free for other in without):
        return {}
    half_t = special.stdtrit(runs - 1, (1 + confidence) / 2)
    spans = {}
    for parameter in found.free:
        slot = found.law.parameters.index(parameter)
        scale = np.log if parameter.logarithmic else np.asarray
        values = np.array([scale(other.values[slot]) for other in without])
        error = np.sqrt((runs - 1) / runs * ((values - values.mean()) ** 2).sum())
        bounds = scale(found.values[slot]) + half_t * error * np.array([-1, 1])
        spans[parameter.name] = tuple(float(x) for x in (np.exp(bounds) if parameter.logarithmic else bounds))
    return spans
