"""The answers on top of the report: a card for each claim, and what to ship; from tables `verdicts` and `choices`."""

import html

import polars as pl
from IPython.display import HTML

from scripts.lib.analysis.choices import sentences
from scripts.lib.analysis.effects import MEASURES, disagreements
from scripts.lib.analysis.judging import NO_COMPARISON, NOT_IDENTIFIABLE
from scripts.lib.analysis.verdicts import EQUAL, LOWER, REFUTED, SUPPORTED, THIS_RUN_ONLY, UNDECIDED
from scripts.lib.report import forest
from scripts.lib.report.numbers import effect, smallest

ORDER = (SUPPORTED, REFUTED, UNDECIDED, THIS_RUN_ONLY, NOT_IDENTIFIABLE, NO_COMPARISON)
SIGNS = {SUPPORTED: "✓", REFUTED: "✗", UNDECIDED: "?", THIS_RUN_ONLY: "◇", NOT_IDENTIFIABLE: "≈", NO_COMPARISON: "–"}
MEANING = {
    SUPPORTED: "The whole interval lies beyond the smallest effect, on the claimed side.",
    REFUTED: "The whole interval lies where the claim does not hold.",
    UNDECIDED: "The interval reaches to both sides of the smallest effect.",
    THIS_RUN_ONLY: "A sentence about the runs of this study; fewer than three say nothing about training.",
    NOT_IDENTIFIABLE: "Two things always change together here, or a phase is not settled.",
    NO_COMPARISON: "The study has no two models that the claim compares.",
}
CLASSES = {verdict: verdict.replace(" ", "-") for verdict in ORDER}
HALF, HEIGHT = 150, 26  # of the bar of a card, in units of its drawing
THESE_RUNS = "Fewer than three runs say nothing about training."
BARS = (
    "In the bars the claimed side is on the right: no effect (line), where the claim holds (shaded), the effect (dot) "
    "and its interval."
)
NOTHING_TO_SHIP = "Nothing that could be shipped was measured."
NOTHING_LISTED = "The study lists no claims to decide."


def summary(verdicts: pl.DataFrame) -> HTML:
    """How many claims ended in which verdict."""
    found = verdicts.filter("primary")["verdict"].to_list()
    if not found:
        return HTML(f'<p class="note">{NOTHING_LISTED}</p>')
    counts = [(verdict, found.count(verdict)) for verdict in ORDER if verdict in found]
    parts = [
        f'<span class="badge {CLASSES[verdict]}">{SIGNS[verdict]} {count} {verdict}</span>' for verdict, count in counts
    ]
    return HTML(f'<p class="counts">Claims: {" ".join(parts)}</p><p class="note">{BARS}</p>')


def cards(verdicts: pl.DataFrame, comparisons: pl.DataFrame) -> HTML:
    """A card for each claim with an effect, decided ones first; then one line for each claim without any."""
    order = pl.col("verdict").replace_strict(_places(), default=None, return_dtype=pl.Int64), "claim"
    rows = verdicts.filter("primary").sort(*order).to_dicts()
    judged = [row for row in rows if row["effect"] is not None]
    limit = forest.reach([row for row in judged if row["smallest"]])
    tested = sum(bool(row["adjusted"]) for row in rows)
    opposed = _opposed(comparisons)
    shown = [_card(row, _others(verdicts, row), limit, tested, opposed.get(row["claim"], [])) for row in judged]
    silent = [_line(row) for row in rows if row["effect"] is None]
    listed = f'<ul class="silent">{"".join(silent)}</ul>' if silent else ""
    return HTML(f'<div class="cards">{"".join(shown)}</div>{listed}')


def _places() -> dict[str, int]:
    return {verdict: place for place, verdict in enumerate(ORDER)}


def _others(verdicts: pl.DataFrame, row: dict) -> list[dict]:
    """What other measures say of the same claim, method and corpus."""
    same = {name: row[name] for name in ("claim", "method", "dataset")}
    return verdicts.filter(**same).filter(~pl.col("primary"), pl.col("effect").is_not_null()).to_dicts()


def _opposed(comparisons: pl.DataFrame) -> dict[str, list[tuple[str, str]]]:
    """Pairs of measures that say the opposite of one comparison, by claim."""
    pairs = disagreements(comparisons).select("claim", "measure", "other_measure").unique(maintain_order=True)
    found: dict[str, list] = {}
    for claim, *measures in pairs.iter_rows():
        found.setdefault(claim, []).append(tuple(MEASURES[name].words for name in measures))
    return found


def _card(row: dict, others: list[dict], limit: float, tested: int, opposed: list[tuple[str, str]]) -> str:
    measure = MEASURES[row["measure"]]
    runs = f"{row['runs']} run{'s' * (row['runs'] != 1)}"
    found = html.escape(f"{measure.words} {effect(row)}")
    parts = [
        f'<p class="says">{html.escape(row["says"])}</p>',
        f'<p class="verdict">{_badge(row["verdict"])} <strong>{found}</strong></p>',
        _bar(row, limit) if row["smallest"] else "",
        f'<p class="facts">Smallest effect that matters: {html.escape(smallest(row))}. <b>{runs}</b> '
        f"({html.escape(row['replicates'])}), {html.escape(row['method'])} on {html.escape(row['dataset'])}.</p>",
        f'<p class="why">{html.escape(" ".join(_reasons(row, tested, opposed)))}</p>',
        f'<p class="whose">Claimed by {html.escape(row["source"])}. <code>{html.escape(row["claim"])}</code></p>',
        _more(row, others),
    ]
    return f'<article class="card {CLASSES[row["verdict"]]}">{"".join(parts)}</article>'


def _reasons(row: dict, tested: int, opposed: list[tuple[str, str]]) -> list[str]:
    """Why the verdict is what it is, and what a reader must know of it."""
    told = []
    if row["verdict"] == THIS_RUN_ONLY:
        told = [f"{row['reason'][0].upper()}{row['reason'][1:]}."] if row["reason"] else []
        told.append(THESE_RUNS)
    if row["verdict"] == REFUTED and row["direction"] != EQUAL and row["smallest"]:
        _, *bounds = forest.in_smallest(row)
        if min(bounds) > 0:
            told.append("The effect is there, but smaller than what matters.")
        elif max(bounds) < 0:
            told.append("The effect goes the other way.")
    if row["verdict"] == UNDECIDED and _alone(row):
        told.append(f"Its interval alone would decide, but not once corrected for the {tested} claims of this study.")
    if row["runs_needed"]:
        told.append(f"About {row['runs_needed']} runs would decide it (power 80 %).")
    if opposed:
        pairs = "; ".join(f"{harmed} says more harm where {other} says less" for harmed, other in opposed)
        told.append(f"Measures disagree: {pairs}.")
    if row["changed"]:
        told.append(f"The claim was changed after {row['fixed']}, when the study began.")
    elif row["measured_before"]:
        told.append(f"The claim was written down when {row['measured_before']} losses had been measured already.")
    return told


def _alone(row: dict) -> bool:
    """Whether the interval, uncorrected, lies on one side of the smallest effect."""
    if row["lower"] is None or row["upper"] is None:
        return False
    lines = {EQUAL: (-row["smallest"], row["smallest"]), LOWER: (-row["smallest"],)}
    return all(not row["lower"] <= line <= row["upper"] for line in lines.get(row["direction"], (row["smallest"],)))


def _more(row: dict, others: list[dict]) -> str:
    """What opens on a click: other measures, what the claim rests on, why its line is where it is, what is left out."""
    also = "; ".join(f"{MEASURES[other['measure']].words} {effect(other)}" for other in others)
    told = {
        "Other measures, which decide nothing": also,
        "Left out": None if row["verdict"] == THIS_RUN_ONLY else row["reason"],
        "Why that effect matters": row["smallest_reason"],
        "The claim's own evidence": row["evidence"],
    }
    parts = "".join(f"<p><b>{name}:</b> {html.escape(text)}</p>" for name, text in told.items() if text)
    return f"<details><summary>Other measures and reasons</summary>{parts}</details>"


def _line(row: dict) -> str:
    reason = f' <span class="note">{html.escape(row["reason"])}</span>' if row["reason"] else ""
    return f"<li>{_badge(row['verdict'])} {html.escape(row['says'])}{reason}</li>"


def _badge(verdict: str) -> str:
    told = f"{SIGNS[verdict]} {verdict.capitalize()}"
    return f'<span class="badge {CLASSES[verdict]}" title="{MEANING[verdict]}">{told}</span>'


def _bar(row: dict, limit: float) -> str:
    """The effect and its interval as a drawing: the zone in which the claim holds, zero, and what is known."""
    value, lower, upper = forest.in_smallest(row)
    start, stop = (-1.0, 1.0) if row["direction"] == EQUAL else (1.0, limit)

    def x(number: float) -> float:
        return round(HALF * (1 + max(-limit, min(limit, number)) / limit), 1)

    interval = ""
    if lower is not None and upper is not None:
        interval = f'<line class="interval" x1="{x(lower)}" x2="{x(upper)}" y1="13" y2="13"/>'
    told = html.escape(f"{effect(row)}; smallest effect that matters {smallest(row)}")
    return (
        f'<svg class="bar" viewBox="-6 0 {2 * HALF + 12} {HEIGHT}" role="img" aria-label="{told}">'
        f'<rect class="zone" x="{x(start)}" y="2" width="{round(x(stop) - x(start), 1)}" height="22"/>'
        f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="2" y2="24"/>'
        f'{interval}<circle cx="{x(value)}" cy="13" r="5"/></svg>'
    )


# --- what to ship ----------------------------------------------------------------------------------------------------


def shipping(choices: pl.DataFrame) -> HTML:
    """What to ship at each size, smallest first: of the first run at once, of each further one on a click."""
    parts = []
    for (run, dataset), rows in choices.group_by("run", "dataset", maintain_order=True):
        items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences(rows))
        name, told = html.escape(f"{run}, on {dataset}"), f'<ul class="choices">{items}</ul>'
        parts.append(f"<details><summary>{name}</summary>{told}</details>" if parts else f"<h4>{name}</h4>{told}")
    return HTML("".join(parts) or f'<p class="note">{NOTHING_TO_SHIP}</p>')
