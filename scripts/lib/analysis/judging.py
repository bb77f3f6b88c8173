"""From claims to the tables `comparisons` and `verdicts`: effects of pairs, within a replicate first, then across them.

A replicate is a seed of the runs trained here, or one published run. Its effect is the mean over its pairs of
checkpoints and its draws of calibration text; along an axis, that of the highest value against the lowest.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from scripts.lib.analysis import intervals, verdicts
from scripts.lib.analysis.comparisons import UNQUANTIZED, Losses, Pair, Selection, select
from scripts.lib.analysis.effects import BASELINE, MEASURES, Measure, Sums, effect, influence, without_quantization
from scripts.lib.analysis.noise import CALIBRATION, NEIGHBOURS, combined
from scripts.lib.analysis.places import Place

NOT_IDENTIFIABLE, NO_COMPARISON = "not identifiable", "no comparison"
MOST_REASONS = 3
LEAST_POINTS = 3  # of an axis, for a slope
SIDE = {
    **dict.fromkeys(("run",), pl.String),
    "seed": pl.Int64,
    **dict.fromkeys(("trajectory", "checkpoint", "method"), pl.String),
    **dict.fromkeys(("step", "tokens"), pl.Int64),
    "learning_rate": pl.Float64,
    "phase": pl.String,
    **dict.fromkeys(("axis_value", "value"), pl.Float64),
}
COMPARISONS = {
    **dict.fromkeys(("study", "claim", "measure", "recipe", "dataset", "replicate"), pl.String),
    **SIDE,
    **{f"reference_{name}": kind for name, kind in SIDE.items()},
    **dict.fromkeys(("effect", "lower", "upper"), pl.Float64),
    "unit": pl.String,
}
VERDICTS = {
    **dict.fromkeys(("study", "claim"), pl.String),
    "primary": pl.Boolean,
    **dict.fromkeys(("measure", "method", "dataset", "unit", "direction"), pl.String),
    **dict.fromkeys(("smallest", "effect", "lower", "upper"), pl.Float64),
    **{"runs": pl.Int64, "replicates": pl.String, "verdict": pl.String, "adjusted": pl.Boolean},
    "runs_needed": pl.Int64,
    **dict.fromkeys(("slope", "slope_lower", "slope_upper"), pl.Float64),
    **{"monotone": pl.Boolean, "reason": pl.String},
    **dict.fromkeys(("says", "source", "evidence", "smallest_reason", "hash", "fixed"), pl.String),
    **{"measured_before": pl.Int64, "changed": pl.Boolean},
}


@dataclass(frozen=True)
class Results:
    """What was measured of a study, as claims need it.

    sums: of quantized cells by (dataset, (trajectory, checkpoint, method)); all cells of a dataset over the same
        documents in the same order, of which one that a cell did not see has no tokens.
    draws: of each recipe, its methods by draw of calibration text; {None: recipe} for one without any.
    losses: without quantization by dataset.
    """

    sums: dict[tuple[str, tuple[str, str, str]], Sums]
    draws: dict[str, dict[int | None, str]]
    losses: dict[str, Losses]


@dataclass
class Effect:
    """The effect of one pair under one draw of calibration text, with the documents' influence on it."""

    pair: Pair
    draw: int | None
    methods: tuple[str, str]
    values: tuple[float | None, float | None]
    effect: float
    influence: np.ndarray


@dataclass
class Replicate:
    """One repetition's effect.

    draws: its effect under each draw of calibration text that all of its pairs have, shape (draws,).
    cells: the variance of the effect if the measure of each cell has a variance of 1 of its own.
    """

    name: str
    effect: float
    influence: np.ndarray
    draws: np.ndarray
    cells: float
    points: dict[float, tuple[float, np.ndarray]] = field(default_factory=dict)  # along an axis: effect, influence


def judged(
    study: str,
    claims: dict[str, dict],
    found: list[Place],
    results: Results,
    fixed: dict[str, dict],
    noise: pl.DataFrame,
    confidence: float,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables `comparisons` and `verdicts`.

    Args:
        study: its name.
        claims: by name, as of `Plan.claims`.
        found: the study's checkpoints.
        results: what was measured.
        fixed: what is on record of each claim, as of `study.claims.fixed`.
        noise: the table, for what adds to the interval of a single run.
        confidence: coverage of the intervals.
    """
    rows, judgements = [], []
    for name, claim in claims.items():
        for dataset, recipe, measure in _asked(claim, results):
            selection = select(claim["compare"], found, results.losses.get(dataset, {}))
            effects = pair_effects(claim, selection, results, dataset, recipe, MEASURES[measure], confidence)
            about = {"study": study, "claim": name, "measure": measure, "dataset": dataset}
            about["unit"] = _unit(claim, MEASURES[measure])
            rows += [about | {"recipe": recipe} | row for row in _rows(effects, confidence)]
            judgement = _judge(claim, selection, effects, measure, Ledger(noise, measure, recipe, dataset), confidence)
            primary = (dataset, recipe, measure) == (claim["dataset"], claim["method"], claim["measure"])
            judgement |= about | {"method": recipe, "primary": primary}
            judgements.append(judgement | _of_claim(claim, fixed[name]))
    _adjust([row for row in judgements if row["primary"]], confidence)
    order = ("claim", "primary", "method", "measure", "dataset")
    verdict_table = _frame(judgements, VERDICTS).sort(*order, descending=[False, True, False, False, False])
    return _frame(rows, COMPARISONS), verdict_table


def _asked(claim: dict, results: Results) -> Iterator[tuple[str, str, str]]:
    """(corpus, recipe, measure) of all that is told of a claim: further measures only of the recipe that decides."""
    for dataset in sorted({*results.losses, claim["dataset"]}):
        for recipe in claim["references"]:
            yield dataset, recipe, claim["measure"]
            if (dataset, recipe) == (claim["dataset"], claim["method"]):
                yield from (
                    (dataset, recipe, measure) for measure in claim.get("also", []) if measure != claim["measure"]
                )


def _frame(rows: list[dict], columns: dict) -> pl.DataFrame:
    return pl.DataFrame([[row.get(name) for name in columns] for row in rows], schema=columns, orient="row")


def _unit(claim: dict, measure: Measure) -> str:
    return measure.unit + (" per doubling" if claim["compare"].get("per") == "doubling" else "")


def _of_claim(claim: dict, fixed: dict) -> dict:
    return {
        **{key: claim[key] for key in ("says", "source", "evidence")},
        "smallest_reason": claim["smallest"]["reason"],
        "hash": fixed["hash"],
        "fixed": fixed["date"],
        "measured_before": fixed["measured"],
        "changed": fixed["changed"],
    }


# --- effects of pairs ------------------------------------------------------------------------------------------------


def pair_effects(
    claim: dict,
    selection: Selection,
    results: Results,
    dataset: str,
    recipe: str,
    measure: Measure,
    confidence: float,
) -> list[Effect]:
    """The effects of all measured pairs under a recipe, one for each draw that both sides have; finite ones only."""
    found, other = [], claim["references"][recipe]
    per_doubling = claim["compare"].get("per") == "doubling"
    for pair in selection.pairs:
        for draw, method in results.draws.get(recipe, {}).items():
            others = results.draws.get(other, {})
            methods = method, others.get(draw, others.get(None, others.get(1)))
            sums = [
                results.sums.get((dataset, (*place.point, name)))
                for place, name in zip((pair.row, pair.reference), methods, strict=True)
            ]
            if claim["compare"].get("against") == UNQUANTIZED and sums[0] is not None:
                methods, sums = (method, BASELINE), [sums[0], without_quantization(sums[0])]
            if None in sums or not np.array_equal(sums[0].tokens, sums[1].tokens):
                continue
            if measure.needs and not _leaves_out_zero(MEASURES[measure.needs], sums, confidence):
                continue
            value, slope = effect(measure, *sums), documents_influence(measure, *sums)
            if per_doubling:
                doublings = math.log2(pair.x / pair.reference_x)
                value, slope = value / doublings, slope / doublings
            if math.isfinite(value) and np.isfinite(slope).all():
                found.append(Effect(pair, draw, methods, _values(measure, sums), value, slope))
    return found


def documents_influence(measure: Measure, this: Sums, reference: Sums) -> np.ndarray:
    """Influence values of documents as analysis/intervals.py has them: their squares add up to the variance."""
    documents = max(2, int((this.tokens > 0).sum()))
    return influence(measure, this, reference) * math.sqrt(documents / (documents - 1))


def _leaves_out_zero(measure: Measure, sums: Sequence[Sums], confidence: float) -> bool:
    lower, upper = intervals.document_interval(
        np.float64(effect(measure, *sums)), documents_influence(measure, *sums), confidence
    )
    return bool(lower > 0 or upper < 0)


def _values(measure: Measure, sums: Sequence[Sums]) -> tuple[float | None, float | None]:
    return tuple(None if measure.value is None else float(measure.value(cell.total())) for cell in sums)


def _rows(effects: list[Effect], confidence: float) -> list[dict]:
    rows = []
    for item in effects:
        lower, upper = intervals.document_interval(np.float64(item.effect), item.influence, confidence)
        sides = zip((item.pair.row, item.pair.reference), (item.pair.x, item.pair.reference_x), strict=True)
        one, two = (
            _side(place, x, method, value)
            for (place, x), method, value in zip(sides, item.methods, item.values, strict=True)
        )
        bounds = {"lower": intervals.known(lower), "upper": intervals.known(upper)}
        reference = {f"reference_{name}": value for name, value in two.items()}
        rows.append({"replicate": item.pair.row.replicate, **one, **reference, "effect": item.effect, **bounds})
    return rows


def _side(place: Place, x: float | None, method: str, value: float | None) -> dict:
    own = ("seed", "trajectory", "checkpoint", "step", "tokens", "learning_rate", "phase")
    return {
        "run": place.root,
        **{name: getattr(place, name) for name in own},
        "method": method,
        "axis_value": None if x is None else float(x),
        "value": intervals.known(value),
    }


# --- replicates and verdicts -----------------------------------------------------------------------------------------


def replicates(effects: list[Effect], per_doubling: bool = False) -> list[Replicate]:
    """One effect a replicate: the mean over its pairs, each the mean over draws; along an axis, of the highest value.

    Args:
        effects: of pairs under each draw of calibration text.
        per_doubling: whether they are told for a doubling of the axis; points along it are not.
    """
    groups = defaultdict(lambda: defaultdict(list))
    for item in effects:
        groups[item.pair.row.replicate][item.pair].append(item)
    return [_replicate(name, list(pairs.values()), per_doubling) for name, pairs in sorted(groups.items())]


def _replicate(name: str, pairs: list[list[Effect]], per_doubling: bool) -> Replicate:
    """One replicate of its pairs, each a list of its effects by draw."""
    top = defaultdict(lambda: -math.inf)
    for draws in pairs:
        top[draws[0].pair.group] = max(top[draws[0].pair.group], draws[0].pair.x or 0.0)
    highest = [draws for draws in pairs if (draws[0].pair.x or 0.0) == top[draws[0].pair.group]]
    values, slopes = zip(*map(_mean, highest), strict=True)
    common = set.intersection(*({item.draw for item in draws} for draws in highest))
    by_draw = [[item.effect for draws in highest for item in draws if item.draw == draw] for draw in common]
    return Replicate(
        name,
        float(np.mean(values)),
        np.mean(slopes, axis=0),
        np.array([np.mean(effects) for effects in by_draw]),
        _cells([draws[0] for draws in highest], per_doubling),
        _points(pairs, per_doubling),
    )


def _points(pairs: list[list[Effect]], per_doubling: bool) -> dict[float, tuple[float, np.ndarray]]:
    """Effect and influence at each value of an axis, 0 at the lowest; of several lowest ones, that with most pairs."""
    starts = Counter(draws[0].pair.reference_x for draws in pairs if draws[0].pair.x is not None)
    points = defaultdict(list)
    for draws in pairs:
        pair, (value, slope) = draws[0].pair, _mean(draws)
        if starts and pair.reference_x == starts.most_common(1)[0][0]:
            scale = math.log2(pair.x / pair.reference_x) if per_doubling else 1.0
            points[pair.x].append((scale * value, scale * slope))
            points[pair.reference_x].append((0.0, 0.0 * slope))
    return {x: tuple(np.mean(part, axis=0) for part in zip(*found, strict=True)) for x, found in points.items()}


def _mean(draws: list[Effect]) -> tuple[float, np.ndarray]:
    """Effect and influence of a pair over its draws."""
    return float(np.mean([item.effect for item in draws])), np.mean([item.influence for item in draws], axis=0)


def _cells(effects: list[Effect], per_doubling: bool) -> float:
    """How much of one cell's own variance, such as that of neighbours, is in the mean of these effects."""
    weights = defaultdict(float)
    for item in effects:
        weight = 1 / len(effects)
        if per_doubling:
            weight /= math.log2(item.pair.x / item.pair.reference_x)
        weights[*item.pair.row.point, item.methods[0]] += weight
        weights[*item.pair.reference.point, item.methods[1]] -= weight
    return sum(weight**2 for weight in weights.values())


def _judge(
    claim: dict, selection: Selection, effects: list[Effect], measure: str, ledger: "Ledger", confidence: float
) -> dict:
    """A row of `verdicts`, without what tells the claim; `judgement` is what Holm's correction needs of it."""
    same_measure = measure == claim["measure"]
    direction, smallest = claim["direction"], claim["smallest"]["effect"]
    row = {"direction": direction, "smallest": smallest if same_measure else None, "adjusted": False}
    if not effects:
        verdict = NO_COMPARISON if selection.pairs or not selection.refused else NOT_IDENTIFIABLE
        left = ["no pair is measured yet, or none has this measure"] if selection.pairs else []
        reason = "; ".join([*left, *_why(selection)]) or "nothing to compare"
        return row | {"verdict": verdict, "runs": 0, "reason": reason}
    found = replicates(effects, claim["compare"].get("per") == "doubling")
    noise, counted = _noise_within(found, ledger)
    influences = np.array([item.influence for item in found])
    judgement = verdicts.judge(
        np.array([item.effect for item in found]), influences, direction, smallest, confidence, noise
    )
    row |= {
        **{
            "effect": judgement.effect,
            "lower": intervals.known(judgement.lower),
            "upper": intervals.known(judgement.upper),
        },
        **{"runs": judgement.runs, "replicates": ", ".join(item.name for item in found)},
        **{"verdict": judgement.verdict, "runs_needed": judgement.runs_needed, "judgement": judgement},
        **_along_axis(found, confidence),
        "reason": "; ".join([*counted, *_why(selection)]) or None,
    }
    return row if same_measure else row | {"verdict": None, "runs_needed": None}


@dataclass(frozen=True)
class Ledger:
    """The rows of the table `noise` of one measure, recipe and corpus."""

    noise: pl.DataFrame
    measure: str
    recipe: str
    dataset: str

    def variance(self, source: str) -> tuple[float, float] | None:
        """Variance of one cell's measure from a source, and its degrees of freedom; None if the study does not tell."""
        known = combined(self.noise, self.measure, self.recipe, self.dataset, [source])
        return None if known is None else (known[0] ** 2, known[1])


def _noise_within(found: list[Replicate], ledger: Ledger) -> tuple[list[verdicts.Noise], list[str]]:
    """What counts below three replicates beside documents, which their spread holds from three on; and what is said."""
    if len(found) >= verdicts.MIN_RUNS:
        return [], []
    noise, counted = [], ["documents"]
    cells = float(np.mean([item.cells for item in found]))
    several = [item.draws for item in found if len(item.draws) > 1]
    if several:
        variance = float(np.mean([draws.var(ddof=1) / len(draws) for draws in several]))
        noise.append(verdicts.Noise(variance, sum(len(draws) - 1 for draws in several)))
        counted.append(f"{min(map(len, several))} draws of calibration text")
    elif known := ledger.variance(CALIBRATION):
        noise.append(verdicts.Noise(cells * known[0], known[1]))
        counted.append("draws of calibration text")
    if known := ledger.variance(NEIGHBOURS):
        noise.append(verdicts.Noise(cells * known[0], known[1]))
        counted.append("neighbouring checkpoints")
    return noise, [f"in these runs only, {' and '.join(counted)} counted; other runs may differ"]


def _along_axis(found: list[Replicate], confidence: float) -> dict:
    """Slope and order along an axis with three values or more: of the effect over the axis's base-2 logarithm, or over
    the axis itself where that holds zero."""
    axis = sorted({x for item in found for x in item.points})
    if len(axis) < LEAST_POINTS:
        return {}
    values = np.full((len(found), len(axis)), np.nan)
    documents = np.zeros((*values.shape, len(found[0].influence)))
    for number, item in enumerate(found):
        for x, (value, slope) in item.points.items():
            values[number, axis.index(x)], documents[number, axis.index(x)] = value, slope
    scaled = np.log2(axis) if min(axis) > 0 else np.array(axis, dtype=float)
    slopes, influences = verdicts.slopes(scaled, values, documents)
    known = np.isfinite(slopes)
    if not known.any():
        return {}
    slope, lower, upper = verdicts.across_runs(slopes[known], influences[known], confidence)
    monotone = verdicts.monotone(values, documents, confidence)
    return {
        "slope": slope,
        "slope_lower": intervals.known(lower),
        "slope_upper": intervals.known(upper),
        "monotone": monotone,
    }


def _adjust(rows: list[dict], confidence: float) -> None:
    """Correct the verdicts of a study's primary claims for their number, in place."""
    rows = [row for row in rows if "judgement" in row]
    claims = [(row["direction"], row["smallest"]) for row in rows]
    corrected = verdicts.holm([row["judgement"] for row in rows], claims, confidence)
    for row, verdict in zip(rows, corrected, strict=True):
        row |= {"verdict": verdict.verdict, "runs_needed": verdict.runs_needed}
        row["adjusted"] = verdict.runs >= verdicts.MIN_RUNS


def _why(selection: Selection) -> list[str]:
    """The first reasons why something is not compared."""
    told = [f"{name}: {reason}" for name, reason in selection.refused + selection.absent]
    left = len(told) - MOST_REASONS
    return told[:MOST_REASONS] + ([f"and {left} more"] if left > 0 else [])
