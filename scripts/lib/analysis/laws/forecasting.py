"""Forecasts: from a trunk before its cooldown, what a planned cooldown will end at.

Everything rests on cooldowns of the study's other runs. For each run that is left out, laws are fitted to the others
and predict the ends of its cooldowns from its trunk's last checkpoint before them. The law that did best there is used
(of equals, one whose parameters the data determine), and its errors there make the interval.
"""

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from scipy import special

from scripts.lib.analysis.laws import scoring
from scripts.lib.analysis.laws.fitting import LEAST_RUNS, Fit, undetermined
from scripts.lib.analysis.laws.forms import BY_NAME, LOSS, PENALTY, laws_of
from scripts.lib.analysis.laws.histories import History, histories, points_of
from scripts.lib.analysis.laws.problems import Problem, problems
from scripts.lib.analysis.laws.scoring import COOLDOWNS, TIES, WORSE, Fits
from scripts.lib.analysis.places import STABLE, TRUNK

QUANTIZED = "loss after quantization"
STEPS = 200  # of a planned cooldown, at which its rate is told
NOT_SCORED = (
    "no cooldown can be left out: it takes cooldowns of two runs, each with a checkpoint of its trunk before them"
)
FEW_RUNS = "no interval: cooldowns of fewer than three runs can be left out"


@dataclass(frozen=True)
class Decay:
    """A planned cooldown, a straight line from the trunk's rate to zero.

    start: step at which it begins; None for the trunk's last measured checkpoint.
    length: in steps.
    """

    start: int | None
    length: int


@dataclass(frozen=True)
class Forecast:
    """What is forecast of one quantity at the end of a planned cooldown.

    Attributes:
        dataset, trunk, end: the text; the run, and the step at which its cooldown ends.
        recipe: how it is quantized; empty for the unquantized loss.
        quantity: in words.
        value, lower, upper: nats a token; no bounds where too few runs could be left out.
        laws: what it was made with, in words, and `ties`, what did as well on cooldowns left out.
        error, last_error: on these, on logarithms: of the forecast, and of 'same as the last checkpoint'.
        runs, cooldowns: that were left out.
    """

    dataset: str
    trunk: str
    end: int
    recipe: str
    quantity: str
    value: float
    lower: float | None
    upper: float | None
    laws: str
    ties: tuple[str, ...]
    error: float
    last_error: float
    runs: int
    cooldowns: int


@dataclass(frozen=True)
class Outcome:
    """A cooldown that was left out, in nats: what was predicted of its end, measured there, and of the trunk before."""

    run: str
    predicted: float
    measured: float
    before: float

    def plus(self, other: "Outcome") -> "Outcome":
        """That of a sum of quantities."""
        sums = (getattr(self, name) + getattr(other, name) for name in ("predicted", "measured", "before"))
        return Outcome(self.run, *sums)


@dataclass(frozen=True)
class Chosen:
    """The law that did best on cooldowns left out, its fit to all cells, and what it did: by (recipe, trajectory)."""

    problem: Problem
    fit: Fit
    ties: tuple[str, ...]
    outcomes: dict[tuple[str, str], Outcome]

    def of(self, recipe: str) -> dict[str, Outcome]:
        """Outcomes of a recipe, by trajectory."""
        return {name: outcome for (own, name), outcome in self.outcomes.items() if own == recipe}


@dataclass(frozen=True)
class Planned:
    """A cooldown of a trunk that is not run yet: where it begins and ends, its history, and tokens at its end."""

    trunk: str
    start: int
    end: int
    history: History
    tokens: float


def forecast(tables: dict[str, pl.DataFrame], decay: Decay, confidence: float) -> tuple[list[Forecast], list[str]]:
    """Loss, penalty and loss after quantization at the end of a planned cooldown of each trunk that can have it.

    Args:
        tables: `measurements`, `methods`, `checkpoints`, `schedules`, `runs` and `noise`.
        decay: the cooldown.
        confidence: of intervals.

    Returns:
        The forecasts; and in words what could not be forecast, and what to know of those that could.
    """
    found, notes, known = [], [], histories(tables["schedules"], tables["runs"])
    told = [problem for problem in problems(tables) if problem.quantity in (LOSS, PENALTY)]
    for dataset in dict.fromkeys(problem.dataset for problem in told):
        of_text = [problem for problem in told if problem.dataset == dataset]
        best = {p.methods: _chosen(p, tables["noise"], confidence) for p in of_text}
        notes += [f"{', '.join(names) or LOSS}: {why}" for names, why in best.items() if isinstance(why, str)]
        if not isinstance(best.get(()), Chosen):
            continue
        losses = of_text[0]
        notes += _lengths(losses, decay)
        for trunk in sorted({row["trajectory"] for row in losses.rows if row["kind"] == TRUNK}):
            plan = _planned(losses, trunk, known[trunk], tables["schedules"].filter(trajectory=trunk), decay)
            if isinstance(plan, str):
                notes.append(f"{trunk}: {plan}")
            else:
                found += _of_trunk(plan, [c for c in best.values() if isinstance(c, Chosen)], confidence)
    return found, [*notes, *([FEW_RUNS] if any(one.lower is None for one in found) else [])]


def _lengths(losses: Problem, decay: Decay) -> list[str]:
    """A note where a planned cooldown is longer or shorter than all of the study."""
    ends = {row["trajectory"]: row["step"] - row["start"] for row in losses.rows if row["kind"] != TRUNK}
    if not ends or min(ends.values()) <= decay.length <= max(ends.values()):
        return []
    told = " to ".join(dict.fromkeys(f"{length:,}" for length in (min(ends.values()), max(ends.values()))))
    return [f"the study's cooldowns take {told} steps: one of {decay.length:,} is beyond them"]


def _planned(losses: Problem, trunk: str, known: History, schedule: pl.DataFrame, decay: Decay) -> Planned | str:
    """The planned cooldown of a trunk, or why it cannot have one."""
    rows = [row for row in losses.rows if row["trajectory"] == trunk]
    start = max(row["step"] for row in rows) if decay.start is None else decay.start
    source = max((row for row in rows if row["step"] <= start), key=lambda row: row["step"], default=None)
    if source is None:
        return f"no checkpoint is measured up to step {start:,}"
    if source["phase"] != STABLE:
        return f"step {source['step']:,} is not in a stable phase ({source['phase']})"
    way = known.until(source["step"])
    if start > source["step"]:
        way = History(np.append(way.steps, start), np.append(way.rates, way.rates[-1]))
    falling = np.linspace(0, 1, STEPS + 1)[1:]
    steps = np.append(way.steps, start + decay.length * falling)
    history = History(steps, np.append(way.rates, way.rates[-1] * (1 - falling)))
    (one, seen), (two, more) = schedule.sort("step").select("step", "tokens").tail(2).iter_rows()
    end = start + decay.length
    return Planned(trunk, start, end, history, source["tokens"] + (end - source["step"]) * (more - seen) / (two - one))


def _chosen(problem: Problem, ledger: pl.DataFrame, confidence: float) -> Chosen | str:
    """The law with the lowest error on cooldowns left out, or why there is none.

    Of laws whose errors differ by a trifle, those come first whose parameters are all determined: another may go
    anywhere beyond the data.
    """
    fits, folds = Fits(problem), [f for f in dict(scoring.splits(problem))[COOLDOWNS] if f.targets]
    if not folds:
        return NOT_SCORED
    scores = {
        law.name: scoring.score(scoring.errors_of(fits, law, folds), confidence)
        for law in laws_of(problem.quantity)
        if isinstance(fits.whole(law), Fit)
    }
    told = scoring.verdicts(scores, confidence, scoring.noise_of_change(ledger, problem).floor(problem))
    good = [name for name, verdict in told.items() if verdict != WORSE]
    every = np.ones(len(problem.rows), bool)
    lowest = min(scores[name].mean for name in good)
    near = [name for name in good if scores[name].mean <= (1 + scoring.LEAST_GAIN) * lowest]
    sure = [n for n in near if not undetermined(fits.whole(BY_NAME[n]), problem.cells, every, confidence)]
    best = min(sure or near, key=lambda name: scores[name].mean)
    ties = tuple(BY_NAME[name].words for name in good if name != best and told[name] == TIES)
    outcomes, values = {}, problem.cells.logs
    for fold, logs in zip(folds, scoring.predictions(fits, BY_NAME[best], folds), strict=True):
        for (source, target), log in zip(fold.targets, logs, strict=True):
            row = problem.rows[target]
            numbers = map(float, np.exp([log, values[target], values[source]]))
            outcomes[row["recipe"] if problem.methods else "", row["trajectory"]] = Outcome(fold.name, *numbers)
    return Chosen(problem, fits.whole(BY_NAME[best]), ties, outcomes)


def _of_trunk(plan: Planned, best: list[Chosen], confidence: float) -> list[Forecast]:
    """The forecasts of one trunk."""
    loss, *penalties = best
    base, outcomes = _value(loss, "", plan), loss.of("")
    found = [_forecast(plan, loss, "", LOSS, base, outcomes, loss.fit.law.words, loss.ties, confidence)]
    for penalty in penalties:
        for recipe in penalty.problem.methods:
            added, own = _value(penalty, recipe, plan), penalty.of(recipe)
            if added is None or not own:
                continue
            words = penalty.fit.law.words
            found.append(_forecast(plan, penalty, recipe, PENALTY, added, own, words, penalty.ties, confidence))
            both = {name: own[name].plus(outcomes[name]) for name in own if name in outcomes}
            if both:
                words = " + ".join(dict.fromkeys([loss.fit.law.words, words]))
                found.append(_forecast(plan, penalty, recipe, QUANTIZED, base + added, both, words, (), confidence))
    return found


def _value(chosen: Chosen, recipe: str, plan: Planned) -> float | None:
    """What a law says of a planned end, from the trunk's last checkpoint up to its start; None without any."""
    problem, cells = chosen.problem, chosen.problem.cells
    fitting = [
        number
        for number, row in enumerate(problem.rows)
        if row["trajectory"] == plan.trunk and row["step"] <= plan.start and recipe in ("", row["recipe"])
    ]
    if not fitting:
        return None
    source = max(fitting, key=lambda number: problem.rows[number]["step"])
    row, units = problem.rows[source], ("token_unit", "size_unit", "rate_unit", "forward_unit")
    bits = np.nan if row["bits"] is None else float(row["bits"])
    end = points_of([(plan.history, plan.tokens, row["size"], bits)])
    end = replace(end, **{name: getattr(cells.points, name) for name in units})
    change = chosen.fit.logs(end)[0] - chosen.fit.logs(cells.points)[cells.index[source]]
    return float(np.exp(cells.logs[source] + change))


def _forecast(plan, chosen: Chosen, recipe, quantity, value, outcomes, laws, ties, confidence) -> Forecast:
    """A forecast with the interval that the errors on cooldowns left out give.

    A further run scatters like those left out: t x root mean square of their errors x sqrt(1 + 1 / runs), on
    logarithms. That the best of several laws was chosen by the same errors makes it a little too narrow.
    """
    errors, lasts = {}, {}
    for outcome in outcomes.values():
        errors.setdefault(outcome.run, []).append(np.log(outcome.predicted / outcome.measured))
        lasts.setdefault(outcome.run, []).append(np.log(outcome.before / outcome.measured))
    error, last = (float(np.sqrt(np.mean([np.mean(np.square(e)) for e in part.values()]))) for part in (errors, lasts))
    runs, bounds = len(errors), (None, None)
    if runs >= LEAST_RUNS:
        half = special.stdtrit(runs - 1, (1 + confidence) / 2) * error * np.sqrt(1 + 1 / runs)
        bounds = tuple(float(value * np.exp(side * half)) for side in (-1, 1))
    place = {"dataset": chosen.problem.dataset, "trunk": plan.trunk, "end": plan.end}
    scored = {"error": error, "last_error": last, "runs": runs, "cooldowns": len(outcomes)}
    return Forecast(
        **place,
        recipe=recipe,
        quantity=quantity,
        value=value,
        lower=bounds[0],
        upper=bounds[1],
        laws=laws,
        ties=ties,
        **scored,
    )
