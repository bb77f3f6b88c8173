"""The table `laws`: parameters, scores on what was left out, and a sentence for each law."""

import numpy as np
import polars as pl

from scripts.lib.analysis.laws import fitting, scoring
from scripts.lib.analysis.laws.fitting import Fit
from scripts.lib.analysis.laws.forms import BY_NAME, Law, laws_of
from scripts.lib.analysis.laws.problems import Problem, problems, quantity_words
from scripts.lib.analysis.laws.scoring import ALONE, BEST, SPLITS, TIES, WORSE, Fits, Noise, Score

LAW, PARAMETER, SCORE = "law", "parameter", "score"
LAWS = {
    **dict.fromkeys(("study", "law", "quantity", "methods", "dataset"), pl.String),
    **dict.fromkeys(("entry", "name"), pl.String),  # entry: law, parameter or score; name: of the last two
    **dict.fromkeys(("estimate", "lower", "upper", "noise", "published"), pl.Float64),
    **dict.fromkeys(("runs", "cells"), pl.Int64),
    **dict.fromkeys(("verdict", "reason", "text", "source"), pl.String),
}
NOT_DETERMINED = "not determined by these data"
HELD = {
    "size": "held: one size in this study",
    "bits": "held: one number of bits",
    "peak": "held: one peak rate",
    "falls": "held: the rate never falls",
}
NO_INTERVAL = "no interval: fewer than three runs"


def laws_table(study: str, tables: dict[str, pl.DataFrame], confidence: float) -> pl.DataFrame:
    """The table `laws` of a study: for each law and what it is fitted to a row, and one a parameter and a score.

    Args:
        study: its name.
        tables: `measurements`, `methods`, `checkpoints`, `schedules`, `runs` and `noise`.
        confidence: coverage of intervals.
    """
    rows = []
    for problem in problems(tables):
        noise = scoring.noise_of_change(tables["noise"], problem)
        same = {"study": study, "quantity": problem.quantity, "dataset": problem.dataset}
        same |= {"methods": ", ".join(problem.methods) or None}
        rows += [dict.fromkeys(LAWS) | same | row for row in _of_problem(problem, noise, confidence)]
    return pl.DataFrame(rows, schema=LAWS)


def _of_problem(problem: Problem, noise: Noise, confidence: float) -> list[dict]:
    """Rows of one problem, laws in the order of `LAWS` of forms.py."""
    fits, laws = Fits(problem), laws_of(problem.quantity)
    whole = {law.name: fits.whole(law) for law in laws}
    scores = {}
    for split, folds in scoring.splits(problem):
        found = {law.name: scoring.score(scoring.errors_of(fits, law, folds), confidence) for law in laws}
        scores[split] = found, scoring.verdicts(found, confidence, noise.floor(problem))
    rows = []
    for law in laws:
        own = {split: (found[law.name], told.get(law.name)) for split, (found, told) in scores.items()}
        parameters = _parameters(law, fits, whole[law.name], confidence)
        head = _head(law, problem, whole[law.name], noise.value)
        head["text"] = sentence(law, problem, whole[law.name], parameters, scores, noise, confidence)
        rows += [head, *parameters, *(_score(law, split, *pair, noise.value) for split, pair in own.items())]
    return rows


def _head(law: Law, problem: Problem, found: Fit | str, floor: float | None) -> dict:
    """The row of the law itself: the scatter of its residuals."""
    fitted = isinstance(found, Fit)
    row = {"law": law.name, "entry": LAW, "source": law.source, "noise": floor}
    row |= {"runs": len(set(problem.cells.units)), "cells": len(problem.rows)}
    return row | {"estimate": _scatter(found, problem) if fitted else None, "reason": None if fitted else found}


def _scatter(found: Fit, problem: Problem) -> float:
    """Root mean square of the residuals of a fit."""
    cells = problem.cells
    residuals = found.logs(cells.points)[cells.index] - cells.logs
    return float(np.sqrt((residuals**2).mean())) if found.law.parameters else float(np.std(cells.logs))


def _parameters(law: Law, fits: Fits, found: Fit | str, confidence: float) -> list[dict]:
    """A row a parameter: its value and interval, or why it has none."""
    if isinstance(found, str):
        return []
    cells = fits.problem.cells
    runs = sorted(set(cells.units))
    others = [fits.without(law, cells.units != run) for run in runs] if len(runs) >= fitting.LEAST_RUNS else []
    spans = fitting.intervals(found, others, confidence) if all(isinstance(o, Fit) for o in others) else {}
    every = np.ones(len(cells.logs), bool)
    left_open = fitting.undetermined(found, cells, every, confidence)
    rows = []
    for parameter, value in zip(law.parameters, found.values, strict=True):
        row = {"law": law.name, "entry": PARAMETER, "name": parameter.name, "published": parameter.published}
        row |= {"runs": len(runs), "cells": len(cells.logs)}
        if parameter not in found.free:
            row["reason"] = HELD[parameter.needs]
        elif parameter.name in left_open:
            row["reason"] = NOT_DETERMINED
        else:
            lower, upper = spans.get(parameter.name, (None, None))
            row |= {"estimate": float(value), "lower": lower, "upper": upper}
            row["reason"] = NO_INTERVAL if lower is None else None
        rows.append(row)
    return rows


def _score(law: Law, split: str, found: Score, told: str | None, floor: float | None) -> dict:
    row = {"law": law.name, "entry": SCORE, "name": split, "noise": floor, "verdict": told, "reason": found.reason}
    row |= {"estimate": found.mean, "lower": found.lower, "upper": found.upper}
    return row | {"runs": len(found.errors) or None, "cells": found.cells or None}


# --- sentences -------------------------------------------------------------------------------------------------------


def percent(log: float) -> str:
    """A scatter on logarithms as people say it: about so many percent."""
    return f"{100 * log:.2g} %"


def sentence(
    law: Law, problem: Problem, found: Fit | str, parameters: list[dict], scores: dict, noise: Noise, confidence: float
) -> str:
    """What a law is good for in this study, and how well it did."""
    name = f"{law.words[0].upper()}{law.words[1:]}, {quantity_words(problem.quantity, problem.methods)}"
    if isinstance(found, str):
        return f"{name}: not fitted, {found}."
    parts = [part for split, pair in scores.items() if (part := _told(law, split, *pair))]
    if not parts:
        runs = len(set(problem.cells.units))
        return f"{name}: {'one run' if runs == 1 else f'{runs} runs'} leave nothing out that it could predict."
    of = "" if noise.methods == problem.methods else f" of {', '.join(noise.methods)}"
    noisy = f" Noise of a change{of} between two checkpoints of a run: {percent(noise.value)}." if noise.value else ""
    use = "" if law.baseline else f"{_use(law, scores, noise.floor(problem), confidence)}. "
    parts = "; ".join(parts)
    return f"{name}: {use}{parts[0].upper()}{parts[1:]}.{noisy}{_numbers(law, parameters)}"


def _use(law: Law, scores: dict, floor: float | None, confidence: float) -> str:
    """In what a law is better than both baselines, if in anything."""
    good, compared = [], False
    for split, (found, told) in scores.items():
        own = found[law.name]
        if own.mean is None or told[law.name] == ALONE:
            continue
        rivals = [name for name, other in found.items() if BY_NAME[name].baseline and other.mean is not None]
        if all(scoring.beats(own, found[name], confidence, floor) for name in rivals):
            good.append(SPLITS[split])
        compared = True
    if good:
        return f"better than both baselines for {' and '.join(good)}"
    told = "in nothing shown to be better than both baselines"
    return told if compared else "too few runs to say whether it is better than a baseline"


def _told(law: Law, split: str, scores: dict[str, Score], verdicts: dict[str, str]) -> str | None:
    """How a law did in a split, beside the others; None where nobody could do anything."""
    own = scores[law.name]
    if own.mean is None:
        return None if own.reason == scoring.NOTHING else f"{SPLITS[split]}: {own.reason}"
    bounds = f" [{percent(own.lower)}, {percent(own.upper)}]" if own.lower is not None else ""
    twins = [BY_NAME[n].words for n, s in scores.items() if n != law.name and scoring.same(s, own)]
    lowest = min(verdicts, key=lambda name: scores[name].mean)
    words = {
        BEST: "the best",
        TIES: "a tie with the best",
        WORSE: f"worse than {BY_NAME[lowest].words}",
        ALONE: f"{len(own.errors)} left out, too few to compare",
    }
    told = f"{SPLITS[split]}: off by {percent(own.mean)}{bounds}, {words[verdicts[law.name]]}"
    return told + (f" (here the same law as {' and '.join(twins)})" if twins else "")


def _numbers(law: Law, parameters: list[dict]) -> str:
    """Its parameters but for amplitudes, and what is not determined."""
    if law.baseline:
        return ""
    known = [row for row in parameters if row.get("lower") is not None]
    told = [f"{row['name']} {row['estimate']:.2g} [{row['lower']:.2g}, {row['upper']:.2g}]" for row in known]
    open_ones = [row["name"] for row in parameters if row["reason"] == NOT_DETERMINED]
    text = f" Fitted: {', '.join(told)}." if told else ""
    return text + (f" {NOT_DETERMINED.capitalize()}: {', '.join(open_ones)}." if open_ones else "")
