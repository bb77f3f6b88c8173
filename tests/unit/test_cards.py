"""cards: what the top of the report says of a claim, and of what to ship."""

import polars as pl
import pytest
from bs4 import BeautifulSoup

from scripts.lib.analysis.choices import CHOICES, sentences
from scripts.lib.analysis.judging import COMPARISONS, VERDICTS
from scripts.lib.report.cards import cards, shipping, summary
from scripts.lib.report.forest import in_smallest, judged

NO_COMPARISONS = pl.DataFrame(schema=COMPARISONS)


def verdict(**changes) -> dict:
    """A row of `verdicts`: a claim that is supported by three seeds."""
    return dict.fromkeys(VERDICTS) | {
        **{"study": "made-up", "claim": "decay-raises", "primary": True, "measure": "kl", "method": "gptq-w3-g32"},
        **{"dataset": "docstrings", "unit": "log ratio", "direction": "higher", "smallest": 0.1, "effect": 0.3},
        **{"lower": 0.2, "upper": 0.4, "runs": 3, "replicates": "seed 1, seed 2, seed 3", "verdict": "supported"},
        **{"adjusted": True, "says": "Decay <does> harm.", "source": "arXiv:1", "evidence": "one run"},
        **{"smallest_reason": "a tenth", "changed": False, "measured_before": 0, "fixed": "2026-01-01"},
        **changes,
    }


def table(*rows: dict) -> pl.DataFrame:
    return pl.DataFrame([[row[name] for name in VERDICTS] for row in rows], VERDICTS, orient="row")


def told(*rows: dict) -> BeautifulSoup:
    return BeautifulSoup(cards(table(*rows), NO_COMPARISONS).data, "html.parser")


def test_a_card_says_claim_effect_smallest_effect_runs_and_verdict():
    (card,) = told(verdict()).find_all("article")
    text = card.get_text().replace("\u00a0", " ")
    for part in (
        "Decay <does> harm.",
        "Supported KL +35 % [+22, +49]",
        "Smallest effect that matters: +10.5 %",
        "3 runs (seed 1, seed 2, seed 3), gptq-w3-g32 on docstrings",
        "Claimed by arXiv:1",
        "one run",
    ):
        assert part in text
    assert "supported" in card["class"]
    assert card.find("svg")["aria-label"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "this run only", "runs": 1}, "Fewer than three runs say nothing about training."),
        ({"verdict": "this run only", "reason": "in these runs, draws counted"}, "In these runs, draws counted."),
        ({"verdict": "undecided", "runs_needed": 7}, "About 7 runs would decide it"),
        ({"verdict": "undecided"}, "Its interval alone would decide, but not once corrected for the 1 claims"),
        (
            {"verdict": "refuted", "effect": 0.05, "lower": 0.01, "upper": 0.09},
            "The effect is there, but smaller than what matters.",
        ),
        ({"verdict": "refuted", "effect": -0.2, "lower": -0.3, "upper": -0.1}, "The effect goes the other way."),
        ({"changed": True}, "The claim was changed after 2026-01-01"),
        ({"measured_before": 12}, "when 12 losses had been measured already"),
        ({"reason": "one <b> is left out"}, "one <b> is left out"),
    ],
)
def test_a_card_says_what_a_reader_must_know(changes, said):
    assert said in told(verdict(**changes)).get_text()


@pytest.mark.parametrize(("lower", "direction"), [(0.05, "higher"), (-0.05, "equal")])
def test_an_interval_that_reaches_to_both_sides_is_not_told_as_decided(lower, direction):
    row = verdict(verdict="undecided", lower=lower, direction=direction)
    assert "alone would decide" not in told(row).get_text()


def test_claims_without_an_effect_are_a_line_with_the_reason():
    silent = {"effect": None, "lower": None, "upper": None, "runs": 0, "reason": "rate and tokens move together"}
    page = told(verdict(), verdict(claim="b", verdict="not identifiable", says="Tokens do.", **silent))
    assert len(page.find_all("article")) == 1
    (line,) = page.find_all("li")
    assert "Not identifiable Tokens do. rate and tokens move together" in line.get_text()


def test_decided_claims_come_first_and_are_counted():
    rows = verdict(claim="a", verdict="undecided"), verdict(claim="b", verdict="refuted"), verdict(claim="c")
    order = [card.find("code").get_text() for card in told(*rows).find_all("article")]
    assert order == ["c", "b", "a"]
    assert "✓ 1 supported" in summary(table(*rows)).data


def test_other_measures_stand_beside_and_disagreement_is_told():
    other = verdict(primary=False, measure="relative_error", unit="share", effect=-0.002, verdict=None, smallest=None)
    other |= {"lower": -0.003, "upper": -0.001}
    text = told(verdict(), other).get_text()
    assert "relative error -0.20 points [-0.30, -0.10]" in text.replace("\u00a0", " ")
    pair = dict.fromkeys(COMPARISONS) | {"study": "made-up", "claim": "decay-raises", "dataset": "d", "method": "m"}
    sides = [
        pair | {"measure": name, "effect": value, "lower": value - 0.001, "upper": value + 0.001}
        for name, value in (("kl", 0.3), ("relative_error", -0.002))
    ]
    compared = pl.DataFrame([[row[name] for name in COMPARISONS] for row in sides], COMPARISONS, orient="row")
    text = BeautifulSoup(cards(table(verdict(), other), compared).data, "html.parser").get_text()
    assert "Measures disagree: KL says more harm where relative error says less." in text


def test_without_claims_it_says_so():
    assert "lists no claims" in summary(table()).data


def test_the_claimed_side_is_right_in_the_forest():
    lower = verdict(direction="lower", effect=-0.3, lower=-0.4, upper=-0.2)
    assert in_smallest(lower) == pytest.approx((3, 2, 4))
    assert in_smallest(verdict()) == pytest.approx((3, 2, 4))
    assert judged(table(lower, verdict(effect=None, claim="none")))["claim"].to_list() == ["decay-raises"]


def test_what_to_ship_is_told_by_run_the_first_one_at_once():
    place = {"study": "s", "dataset": "d", "trajectory": "t", "checkpoint": "step-9", "method": "nf4", "on_front": True}
    sizes = {"bytes": 10_000_000, "bytes_zstd": 9_000_000, "bits_per_weight": 4.5, "loss": 3.1}
    rows = [dict.fromkeys(CHOICES) | place | sizes | {"run": run} for run in ("<a>", "b")]
    choices = pl.DataFrame([[row[name] for name in CHOICES] for row in rows], CHOICES, orient="row")
    page = BeautifulSoup(shipping(choices).data, "html.parser")
    assert page.find("h4").get_text() == "<a>, on d"
    assert page.find("summary").get_text() == "b, on d"
    assert [item.get_text() for item in page.find_all("li")] == [*sentences(choices[:1]), *sentences(choices[1:])]
    assert "Nothing that could be shipped" in shipping(choices.clear()).data
