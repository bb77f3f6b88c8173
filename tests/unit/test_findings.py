"""findings: effects and verdicts in words, with the numbers of the tables."""

import math

import pytest

from scripts.lib.report.findings import SPACE, effect, interval, sentence

ROW = {
    **{"says": "Decay hurts.", "claim": "decay-raises", "measure": "kl", "unit": "log ratio", "method": "gptq-w3-g32"},
    **{"effect": math.log(1.24), "lower": math.log(1.2), "upper": math.log(1.3), "verdict": "supported", "runs": 3},
    **{"replicates": "seed 1, seed 2, seed 3", "reason": None, "fixed": "2026-11-26", "changed": False},
    "measured_before": 0,
}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, f"+24 [+20, +30]{SPACE}%"),
        ({"lower": None, "upper": None}, f"+24{SPACE}%"),
        ({"effect": None}, "–"),
        ({"measure": "relative_error", "effect": 0.0012, "lower": None}, f"+0.12{SPACE}points"),
        (
            {"measure": "loss", "unit": "nats per token", "effect": -0.011, "lower": -0.02, "upper": -0.002},
            f"-0.011 [-0.02, -0.002]{SPACE}nats per token",
        ),
        ({"measure": "gain_kept", "effect": 0.97, "lower": 0.9, "upper": 1.0}, f"+97 [+90, +100]{SPACE}%"),
    ],
)
def test_an_effect_is_shown_as_its_measure_is(changes, text):
    assert effect(ROW | changes) == text


def test_relative_errors_are_told_in_percent():
    row = {"relative": 0.018, "lower": 0.017, "upper": 0.019}
    assert interval(row) == f"1.80{SPACE}% [1.70, 1.90]"
    assert interval(row | {"lower": None}) == f"1.80{SPACE}%"


def test_a_claim_with_its_verdict():
    assert sentence(ROW).replace(SPACE, " ") == (
        "Decay hurts. Supported: KL +24 [+20, +30] % by gptq-w3-g32, 3 replicates: seed 1, seed 2, seed 3."
    )
    alone = ROW | {"runs": 1, "replicates": "seed 1", "verdict": "this run only", "reason": "documents counted"}
    assert sentence(alone).endswith("by gptq-w3-g32, 1 replicate: seed 1 (documents counted).")
    refused = ROW | {"effect": None, "verdict": "not identifiable", "reason": "a: it has no trunk beside"}
    assert sentence(refused) == "Decay hurts. Not identifiable (a: it has no trunk beside)."


def test_a_claim_that_changed_or_came_late_says_so():
    assert "changed after 2026-11-26, when the study began" in sentence(ROW | {"changed": True})
    assert "when 7 losses had been measured already" in sentence(ROW | {"measured_before": 7})
    assert "already" not in sentence(ROW | {"measured_before": None, "changed": None})
