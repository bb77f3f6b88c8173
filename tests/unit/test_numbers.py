"""numbers: as many digits as an interval bears, never a signed zero, and effects in the unit of their measure."""

import pytest

from scripts.lib.report.numbers import effect, percent, smallest, with_interval

SPACE = "\u00a0"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((24.123, 22.04, 26.31), "24.1 [22.0, 26.3]"),
        ((0.13412, 0.1282, 0.1399), "0.134 [0.128, 0.140]"),
        ((-0.0001, -0.04, 0.039), "0.00 [-0.04, 0.04]"),
        ((3.45678, None, None), "3.46"),
        ((120.4, 20.0, 220.0), "120 [20, 220]"),
        ((0.0, None, None), "0"),
        ((25.5451, 25.5451, 25.5451), "25.5 [25.5, 25.5]"),
        ((float("nan"), 0.0, 1.0), "–"),
        ((None, None, None), "–"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_bears(numbers, text):
    assert with_interval(*numbers).replace(SPACE, " ") == text


def test_nothing_is_minus_zero_percent():
    assert percent(-0.000004, -0.0004, 0.0004) == f"0.00{SPACE}% [-0.04,{SPACE}0.04]"
    assert percent(-1e-12) != f"-0.00{SPACE}%"


def row(measure: str, unit: str, direction: str = "higher", **numbers) -> dict:
    return {"measure": measure, "unit": unit, "direction": direction, "lower": None, "upper": None, **numbers}


@pytest.mark.parametrize(
    ("of", "text"),
    [
        (row("kl", "log ratio", effect=0.2231, lower=0.1, upper=0.35), f"+25{SPACE}% [+11, +42]"),
        (row("kl", "log ratio per doubling", effect=0.2231), f"+25.0{SPACE}% per doubling"),
        (row("relative_error", "share", effect=0.0031), f"+0.310{SPACE}points"),
        (row("gain_kept", "share", effect=0.93, lower=0.9, upper=0.96), f"93{SPACE}% [90, 96]"),
        (row("loss", "nats per token", effect=-0.01234), f"-0.0123{SPACE}nats per token"),
        (row("loss", "nats per token", effect=None), "–"),
    ],
)
def test_effects_are_shown_as_their_measures_are(of, text):
    assert effect(of).replace(SPACE, " ") == text.replace(SPACE, " ")


@pytest.mark.parametrize(
    ("direction", "text"),
    [("higher", f"+10.5{SPACE}%"), ("lower", f"-9.52{SPACE}%"), ("equal", f"±10.5{SPACE}%")],
)
def test_the_smallest_effect_lies_on_the_claimed_side(direction, text):
    assert smallest(row("kl", "log ratio", direction, smallest=0.1)) == text
