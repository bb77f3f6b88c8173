"""What laws are fitted to: for each quantity and group of methods its cells, where they stand, and what came before."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from scripts.lib.analysis.laws.fitting import Cells
from scripts.lib.analysis.laws.forms import LOSS, PENALTY, QUANTITIES
from scripts.lib.analysis.laws.histories import History, histories, points_of
from scripts.lib.analysis.metrics import CROSS_ENTROPY, KL, first_draws, rows_of

BASELINE = "none"
ALIKE = ("algorithm", "transform", "library", "group_size", "symmetric", "calibration")  # methods that differ in bits
NO_SETTING = ("trajectory", "family", "root", "kind", "parent", "parent_checkpoint", "seed", "data_seed")


@dataclass(frozen=True)
class Problem:
    """The cells of one quantity, of methods that differ in their bits alone, on one text.

    Attributes:
        quantity: of `QUANTITIES`.
        methods: recipes, by name; empty for the unquantized loss.
        dataset: the text.
        cells: what laws are fitted to.
        rows: of each cell trajectory, checkpoint, step, tokens, phase, recipe, value, bits, size, root, kind, parent,
            start (the step at which a branch leaves its parent), seed, setting (what its trunk holds fixed, as text).
        left_out: cells that are not among them, by reason.
    """

    quantity: str
    methods: tuple[str, ...]
    dataset: str
    cells: Cells
    rows: list[dict]
    left_out: dict[str, int]


def problems(tables: dict[str, pl.DataFrame]) -> Iterator[Problem]:
    """All that a study has cells for: losses first, then by methods.

    Averages are left out, for no schedule of the rate led to them, and so are cells whose run's rates are not known
    from its first step and values that are not above zero.

    Args:
        tables: `measurements`, `methods`, `checkpoints`, `schedules` and `runs`.
    """
    measured = rows_of(first_draws(tables["measurements"]), CROSS_ENTROPY, KL)
    known = histories(tables["schedules"], tables["runs"])
    places = _places(tables)
    groups = _groups(measured, tables["methods"])
    for dataset in measured["dataset"].unique().sort():
        part = measured.filter(pl.col("dataset") == dataset)
        losses = part.filter(pl.col("metric") == CROSS_ENTROPY.name)
        yield from _problem(LOSS, (), dataset, losses.filter(method=BASELINE), places, known)
        for recipes in groups:
            chosen = pl.col("recipe").is_in(recipes), pl.col("method") != BASELINE
            added = losses.filter(*chosen).with_columns(value=pl.col("value") - pl.col("baseline"))
            yield from _problem(PENALTY, recipes, dataset, added, places, known)
            yield from _problem(KL.name, recipes, dataset, part.filter(*chosen, metric=KL.name), places, known)


def quantity_words(quantity: str, methods: tuple[str, ...] | str) -> str:
    """A quantity with its methods, for people."""
    names = methods if isinstance(methods, str) else ", ".join(methods)
    return f"{QUANTITIES[quantity]} of {names}" if names else QUANTITIES[quantity]


def _groups(measured: pl.DataFrame, methods: pl.DataFrame) -> list[tuple[str, ...]]:
    """Recipes that differ in their bits alone; each by itself where two of them have equal bits."""
    bits = dict(measured.filter(pl.col("method") != BASELINE).select("recipe", "bits").unique().iter_rows())
    alike = {row["recipe"]: tuple(row[name] for name in ALIKE) for row in methods.to_dicts()}
    found = {}
    for recipe in sorted(bits, key=lambda name: (bits[name] or 0, name)):
        found.setdefault(alike.get(recipe, recipe), []).append(recipe)
    split = []
    for recipes in found.values():
        apart = len({bits[name] for name in recipes}) == len(recipes)
        split += [tuple(recipes)] if apart else [(name,) for name in recipes]
    return sorted(split)


def _places(tables: dict[str, pl.DataFrame]) -> dict[tuple[str, str], dict]:
    """Of each checkpoint of a trunk or branch, what its run is."""
    runs = {row["trajectory"]: row for row in tables["runs"].to_dicts()}
    settings = [name for name in tables["runs"].columns if name not in NO_SETTING]
    starts = dict(tables["schedules"].group_by("trajectory").agg(pl.col("step").min()).iter_rows())
    found = {}
    for point in tables["checkpoints"].to_dicts():
        run = runs[point["trajectory"]]
        root = runs.get(run["root"], run)
        known = [f"{name} {root[name]}" for name in settings if root[name] is not None]
        found[point["trajectory"], point["checkpoint"]] = {
            **{name: run[name] for name in ("root", "kind", "parent", "seed")},
            "start": starts.get(point["trajectory"], 0),
            "setting": ", ".join(known) if root["seed"] is not None else run["root"],
            **{"size": point["parameters"], "rate": point["learning_rate"]},
        }
    return found


def _problem(quantity, methods, dataset, part: pl.DataFrame, places: dict, known: dict) -> Iterator[Problem]:
    """The problem of these rows of `measurements`; none if no cell is left."""
    rows, ways, left_out = [], [], {}
    for row in part.sort("recipe", "trajectory", "step", nulls_last=False).to_dicts():
        place = places.get((row["trajectory"], row["checkpoint"]))
        reason = _left_out(row, place, known)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        names = ("trajectory", "checkpoint", "step", "tokens", "phase", "recipe", "value", "bits")
        rows.append({name: row[name] for name in names} | place)
        ways.append(whole_way(known[row["trajectory"]], row["step"], place["rate"]))
    if rows:
        yield Problem(quantity, methods, dataset, cells_of(rows, ways), rows, left_out)


def _left_out(row: dict, place: dict | None, known: dict) -> str | None:
    if place is None or place["kind"] not in ("trunk", "branch") or row["phase"] == "average":
        return "averages and soups"
    if row["trajectory"] not in known or known[row["trajectory"]].steps[-1] <= 0 or place["size"] is None:
        return "no whole schedule"
    if row["value"] is None or not np.isfinite(row["value"]) or row["value"] <= 0:
        return "not above zero"
    return None if row["step"] > known[row["trajectory"]].steps[0] else "no whole schedule"


def whole_way(history: History, step: int, rate: float | None) -> History:
    """A run's history up to a checkpoint, which has a rate of its own; after the last known step the rate stays."""
    way = history.until(step)
    return way if rate is None else History(way.steps, np.append(way.rates[:-1], rate))


def cells_of(rows: list[dict], ways: list[History]) -> Cells:
    """Cells with equal histories, sizes and bits share a point."""
    found, index = {}, []
    for row, way in zip(rows, ways, strict=True):
        bits = np.nan if row["bits"] is None else float(row["bits"])
        key = (way.steps.tobytes(), way.rates.tobytes(), row["tokens"], row["size"], str(bits))
        place, _ = found.setdefault(key, (len(found), (way, row["tokens"], row["size"], bits)))
        index.append(place)
    logs = np.log([row["value"] for row in rows])
    units = np.array([row["root"] for row in rows])
    return Cells(points_of([point for _, point in found.values()]), np.array(index), logs, units)


def before(problem: Problem, number: int, step: int | None = None) -> int | None:
    """The last cell of the same run and recipe that lies before a cell: of its own trajectory, or of those it left.

    Args:
        problem, number: the cell.
        step: a step from which on nothing is known; the cell's own if not given.
    """
    rows, found = problem.rows, None
    cell = rows[number]
    limits, name = {}, cell["trajectory"]
    limit = cell["step"] if step is None else step
    while name is not None and name not in limits:
        limits[name] = limit
        run = next((row for row in rows if row["trajectory"] == name), None)
        if run is None or run["kind"] != "branch":
            break
        name, limit = run["parent"], min(limit, run["start"] + 1)
    for other, row in enumerate(rows):
        if row["recipe"] == cell["recipe"] and row["step"] < limits.get(row["trajectory"], 0):
            found = other if found is None or row["step"] > rows[found]["step"] else found
    return found
