"""Numbers as the report writes them: with as many digits as their interval bears, and in the unit of their measure."""

import math

from scripts.lib.analysis.effects import MEASURES, PERCENT, PLAIN, POINTS, RATIO

SPACE = "\u00a0"  # a space that does not break
DASH = "–"
PERCENTS = 100.0, f"{SPACE}%"
SCALES = {PLAIN: (1.0, ""), POINTS: (100.0, f"{SPACE}points"), PERCENT: PERCENTS, RATIO: PERCENTS}
MOST_DECIMALS = 6
NO_WIDTH = 1e-6  # of a value, up to which an interval has none


def decimals(value: float, half_width: float | None = None) -> int:
    """Decimals that carry meaning: to the first digit of an interval's half width, the second where the first is below
    3; without an interval to the value's third digit."""
    if half_width and half_width > NO_WIDTH * abs(value):
        place = -math.floor(math.log10(half_width / 3))
    elif value:
        place = 2 - math.floor(math.log10(abs(value)))
    else:
        place = 0
    return min(max(place, 0), MOST_DECIMALS)


def fixed(value: float, places: int, sign: bool = False) -> str:
    """A number with so many decimals; one that rounds to zero has no sign."""
    text = f"{value:{'+' if sign else ''}.{places}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def with_interval(
    value: float | None, lower: float | None = None, upper: float | None = None, unit: str = "", sign: bool = False
) -> str:
    """A number, its unit and its interval: `+24.1 % [+22.0, +26.3]`; without bounds the number alone."""
    if value is None or not math.isfinite(value):
        return DASH
    bounds = [bound for bound in (lower, upper) if bound is not None and math.isfinite(bound)]
    half = (bounds[1] - bounds[0]) / 2 if len(bounds) == 2 else None
    places = decimals(value, half)
    told = fixed(value, places, sign) + unit
    if half is None:
        return told
    return f"{told} [{f',{SPACE}'.join(fixed(bound, places, sign) for bound in bounds)}]"


def percent(value: float | None, lower: float | None = None, upper: float | None = None) -> str:
    """A share in percent with its interval."""
    return with_interval(*(None if number is None else 100 * number for number in (value, lower, upper)), PERCENTS[1])


def effect(row: dict) -> str:
    """The effect of a row of `comparisons` or `verdicts` with its interval, as its measure is shown."""
    measure = MEASURES[row["measure"]]
    scaled = (_scaled(measure.shown, row[name]) for name in ("effect", "lower", "upper"))
    return with_interval(*scaled, unit_of(row), sign=measure.shown != PERCENT)


def smallest(row: dict) -> str:
    """The smallest effect that matters of a row of `verdicts`, in the claimed direction, as its measure is shown."""
    measure, least = MEASURES[row["measure"]], row["smallest"]
    told = f"{_scaled(measure.shown, -least if row['direction'] == 'lower' else least):.3g}"
    sign = {"higher": "+", "equal": "±"}.get(row["direction"], "")
    return f"{sign}{told}{unit_of(row)}"


def unit_of(row: dict) -> str:
    """What stands behind an effect: its unit, and what it is an effect of, if not of the whole comparison."""
    unit, per, doubling = row["unit"].partition(" per doubling")
    return (SCALES[MEASURES[row["measure"]].shown][1] or f"{SPACE}{unit}") + per + doubling


def _scaled(shown: str, number: float | None) -> float | None:
    if number is None:
        return None
    return SCALES[shown][0] * (math.expm1(number) if shown == RATIO else number)
