"""What a law knows of a checkpoint: tokens, size, bits, and sums over the learning rates that led to it."""

from dataclasses import dataclass

import numpy as np
import polars as pl

MOST_FALLS = 50  # of a history; more are merged, as a law takes them all at every step of its fit


@dataclass(frozen=True)
class History:
    """Learning rates on the way to a checkpoint, at ascending steps from the run's first to the checkpoint's own."""

    steps: np.ndarray
    rates: np.ndarray

    def until(self, step: int) -> "History":
        """The part up to a step, which gets the rate between its neighbours; a history is never made longer."""
        kept = self.steps < step
        rate = np.interp(step, self.steps, self.rates)
        return History(np.append(self.steps[kept], step), np.append(self.rates[kept], rate))


@dataclass(frozen=True)
class Points:
    """Arrays over points, a point being what a law tells apart: a history, a size and a number of bits.

    Attributes, each of shape (points,) unless said otherwise:
        tokens, size: training tokens; parameters of the model.
        bits: a weight; not a number for unquantized models.
        rate, peak: learning rate at the end, and the highest.
        forward: sum of the rates over all steps, warm-up included.
        falls: by how much the rate falls at each of k places after the warm-up, (points, k); negative where it rises.
        steps_after, forward_after, rate_after: steps and sum of rates from there to the end, and the rate there.
        token_unit, size_unit, rate_unit, forward_unit: numbers that laws measure these in, the same for all fits of a
            study, so that amplitudes are about one.
    """

    tokens: np.ndarray
    size: np.ndarray
    bits: np.ndarray
    rate: np.ndarray
    peak: np.ndarray
    forward: np.ndarray
    falls: np.ndarray
    steps_after: np.ndarray
    forward_after: np.ndarray
    rate_after: np.ndarray
    token_unit: float
    size_unit: float
    rate_unit: float
    forward_unit: float

    def varies(self, what: str, chosen: np.ndarray) -> bool:
        """Whether tokens, size, bits, peak, or falls (any at all) differ between the chosen points."""
        values = getattr(self, what)[chosen]
        return bool(values.any()) if what == "falls" else len(np.unique(values[np.isfinite(values)])) > 1


def histories(schedules: pl.DataFrame, runs: pl.DataFrame) -> dict[str, History]:
    """The whole history of every run whose rates are known from its first step, or from that of the run it leaves.

    Args:
        schedules, runs: tables of a study.
    """
    own = {
        name: History(part["step"].to_numpy().astype(float), part["learning_rate"].to_numpy().astype(float))
        for (name,), part in schedules.sort("step").group_by("trajectory", maintain_order=True)
        if part["learning_rate"].is_not_null().all()
    }
    parents = dict(runs.filter(kind="branch").select("trajectory", "parent").iter_rows())

    def whole(name: str) -> History | None:
        if name not in own or name not in parents:
            return own.get(name)
        before = whole(parents[name])
        if before is None or before.steps[-1] < own[name].steps[0]:
            return None
        before = before.until(own[name].steps[0])
        joined = zip((before.steps[:-1], before.rates[:-1]), (own[name].steps, own[name].rates), strict=True)
        return History(*(np.concatenate(pair) for pair in joined))

    return {name: found for name in own if (found := whole(name)) is not None}


def points_of(found: list[tuple[History, float, float, float]]) -> Points:
    """Arrays of points from their history, tokens, size and bits each."""
    rows = [_sums(history) for history, *_ in found]
    most = max(len(row["falls"]) for row in rows)
    stacked = {name: np.array([row[name] for row in rows]) for name in ("rate", "peak", "forward")}
    for name in ("falls", "steps_after", "forward_after", "rate_after"):
        stacked[name] = np.array([np.pad(row[name], (0, most - len(row[name]))) for row in rows])
    tokens, size, bits = (np.array(values, float) for values in zip(*(row[1:] for row in found), strict=True))
    return Points(
        tokens,
        size,
        bits,
        **stacked,
        token_unit=_middle(tokens),
        size_unit=_middle(size),
        rate_unit=float(stacked["peak"].max()),
        forward_unit=_middle(stacked["forward"]),
    )


def _middle(values: np.ndarray) -> float:
    """The geometric mean."""
    return float(np.exp(np.log(values).mean()))


def _sums(history: History) -> dict:
    """Sums of one history, by the names of `Points`; a rate is a straight line between two of its steps."""
    steps, rates = history.steps, history.rates
    areas = np.diff(steps) * (rates[1:] + rates[:-1]) / 2
    forward = np.concatenate([[0.0], np.cumsum(areas)])
    falls, places = rates[:-1] - rates[1:], np.arange(len(rates) - 1)
    warm = int(np.argmax(falls >= 0)) if (falls >= 0).any() else len(falls)  # from where it rises no more
    places = places[(places >= warm) & (falls != 0)]
    groups = [part for part in np.array_split(places, min(MOST_FALLS, len(places) or 1)) if len(part)]
    first, last = np.array([g[0] for g in groups], int), np.array([g[-1] + 1 for g in groups], int)
    middle = (steps[first] + steps[last]) / 2
    return {
        "rate": rates[-1],
        "peak": rates.max(),
        "forward": forward[-1],
        "falls": rates[first] - rates[last],
        "steps_after": steps[-1] - middle,
        "forward_after": forward[-1] - np.interp(middle, steps, forward),
        "rate_after": (rates[first] + rates[last]) / 2,
    }
