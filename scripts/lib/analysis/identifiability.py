"""Identifiability: what a comparison holds fixed, what a study varies independently, and whether a phase has settled.

An effect of one coordinate cannot be told from that of another that always moves with it.
"""

import math

import numpy as np

from scripts.lib.analysis.places import Place, by_trajectory

SETTLED = 3.0  # rate x weight decay x steps from which on a stable phase has forgotten its start (but for 5 %)
MIN_RUNS = 3  # fewer say nothing about training
# Settings that say when and how the rate falls.
OF_THE_DECAY = ("branch.step", *(f"schedule.{key}" for key in ("name", "decay.", "end", "floor", "clip")))


def differences(one: Place, other: Place, but: tuple[str, ...] = ()) -> list[str]:
    """Settings in which two runs differ, those that begin with one of `but` aside."""
    mine, others = rest(one, but), rest(other, but)
    return sorted(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))


def rest(place: Place, but: tuple[str, ...]) -> dict:
    """Settings of a run but those that begin with one of `but`."""
    return {key: value for key, value in place.settings.items() if not key.startswith(but)}


def told(names: list[str]) -> str:
    """The first of several names, as a sentence has them."""
    return " and ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def settled(points: list[Place]) -> tuple[list[Place], list[tuple[str, str]]]:
    """The checkpoints whose stable phase has settled, and (trajectory, reason) of each run's others."""
    kept, reasons = [place for place in points if (place.settling or 0.0) >= SETTLED], []
    for name, left in by_trajectory([place for place in points if place not in kept]).items():
        most = max((place.settling for place in left if place.settling is not None), default=None)
        known = "not known, for the weight decay is not" if most is None else f"{most:.2g} at most, below {SETTLED:g}"
        number = f"{len(left)} checkpoint{'s' * (len(left) > 1)}"
        reasons.append((name, f"{number} not settled: rate x weight decay x steps is {known}"))
    return kept, reasons


def varied(found: list[Place]) -> dict[str, float]:
    """What the checkpoints of the runs trained here vary, with the variance inflation of each: the logarithm of tokens,
    the rate, and every setting that is a number and differs. Settling is their product, and so no further one."""
    trained = [place for place in found if place.trained]
    columns = {
        "tokens": [math.log2(place.tokens) if place.tokens else None for place in trained],
        "learning rate": [place.learning_rate for place in trained],
    }
    names = sorted({name for place in trained for name in place.settings} - {"seed"})
    columns |= {name: [place.settings.get(name) for place in trained] for name in names}
    numbers = {
        name: np.array(values, dtype=float)
        for name, values in columns.items()
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    }
    return variance_inflation({name: values for name, values in numbers.items() if len(set(values)) > 1})


def variance_inflation(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Variance inflation factor of each coordinate: 1 / (1 - R^2) of its regression on all others and a constant.

    1: it varies independently of the others. Infinity: it always moves with them. Columns that do not vary, or repeat
    in all others, are the caller's to leave out; with one column the factor is 1. Belsley, Kuh and Welsch (1980), 3.2.
    """
    names, factors = list(columns), {}
    if not names:
        return {}
    matrix = np.column_stack([np.asarray(columns[name], dtype=float) for name in names])
    matrix = matrix - matrix.mean(axis=0)
    for number, name in enumerate(names):
        mine, others = matrix[:, number], np.delete(matrix, number, axis=1)
        left = mine - others @ np.linalg.lstsq(others, mine, rcond=None)[0] if others.size else mine
        share = (left @ left) / (mine @ mine)
        factors[name] = float("inf") if share < 1e-9 else float(1 / share)
    return factors
