"""The forest plot of a study's claims: effects in units of the smallest effect that matters, on the claimed side."""

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from scripts.lib.analysis.verdicts import EQUAL, LOWER, REFUTED, SUPPORTED, THIS_RUN_ONLY, UNDECIDED
from scripts.lib.report import figures
from scripts.lib.report.numbers import effect

NO_CLAIMS = "No claim of this study has an effect yet."
COLORS = {SUPPORTED: "#00805f", REFUTED: "#c04a00", UNDECIDED: "#5b6472", THIS_RUN_ONLY: "#0072b2"}
MARKERS = {SUPPORTED: "o", REFUTED: "X", UNDECIDED: "s", THIS_RUN_ONLY: "D"}
DESCRIPTIVE = "0.55"  # colour of methods that do not decide
WIDEST = 12.0  # smallest effects that the axis shows at most
ROW = 0.31  # inches


def in_smallest(row: dict) -> tuple[float, float | None, float | None]:
    """Effect, lower and upper of a row of `verdicts` in units of the smallest effect, the claimed side being right."""
    sign = -1 if row["direction"] == LOWER else 1
    value, *bounds = (
        None if row[name] is None else sign * row[name] / row["smallest"] for name in ("effect", "lower", "upper")
    )
    lower, upper = bounds[::sign]
    return value, lower, upper


def judged(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Rows of `verdicts` with an effect and a smallest effect above zero: those that decide first in each claim."""
    known = pl.col("effect").is_not_null(), pl.col("smallest") > 0
    return verdicts.filter(*known).sort("claim", "primary", descending=[False, True], maintain_order=True)


def reach(rows: list[dict]) -> float:
    """How far an axis must reach to show the effects, and the intervals as far as they are no wider than WIDEST."""
    values = [abs(number) for row in rows for number in in_smallest(row) if number is not None]
    return max(1.5, min(1.1 * max(values, default=0), WIDEST))


def draw(verdicts: pl.DataFrame) -> Figure:
    """One row a claim and method; the zone from the smallest effect on is where a claim is supported."""
    rows = judged(verdicts).to_dicts()
    if not rows:
        return figures.placeholder(NO_CLAIMS)
    limit = reach(rows)
    figure, axis = plt.subplots(figsize=(figures.WIDTH, 1.5 + ROW * len(rows)))
    for place, row in enumerate(rows):
        _draw_row(axis, place, row, limit)
    axis.axvline(0, color="0.3", linewidth=1)
    axis.axvline(1, color="0.3", linewidth=1, linestyle="--")
    lowest = min(number for row in rows for number in in_smallest(row) if number is not None)
    axis.set_xlim(max(-limit, min(-1.5, 1.1 * lowest)), limit)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    several = verdicts["dataset"].n_unique() > 1
    axis.set_yticks(range(len(rows)), [_label(row, several) for row in rows], fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("effect in units of the smallest effect that matters; right is the claimed side")
    figures.legend(figure, _entries(rows))
    return figure


def _draw_row(axis, place: int, row: dict, limit: float) -> None:
    value, lower, upper = in_smallest(row)
    color = COLORS[row["verdict"]] if row["primary"] else DESCRIPTIVE
    start = -1.0 if row["direction"] == EQUAL else 1.0
    stop = 1.0 if row["direction"] == EQUAL else limit
    axis.barh(place, stop - start, left=start, height=0.9, color="#e8f3ef", zorder=0)
    if lower is not None and upper is not None:
        axis.hlines(place, max(lower, -limit), min(upper, limit), color=color, linewidth=2 if row["primary"] else 1.2)
        for bound, marker in ((lower, "<"), (upper, ">")):
            if abs(bound) > limit:
                axis.plot(np.sign(bound) * limit * 0.99, place, marker, color=color, markersize=6, clip_on=False)
    inside = float(np.clip(value, -limit, limit))
    style = {"markersize": 8 if row["primary"] else 4.5, "markeredgecolor": "white", "zorder": 3}
    axis.plot(inside, place, MARKERS.get(row["verdict"], "o") if row["primary"] else "o", color=color, **style)
    told = f"{effect(row)}" + (f"  {row['verdict']}" if row["primary"] else "")
    weight = "bold" if row["primary"] else "normal"
    axis.text(
        1.02, place, told, transform=axis.get_yaxis_transform(), va="center", fontsize=8, color=color, weight=weight
    )


def _label(row: dict, several: bool) -> str:
    name = row["claim"] if row["primary"] else f"by {row['method']}"
    return f"{name}, {row['dataset']}" if several else name


def _entries(rows: list[dict]) -> list[Line2D]:
    verdicts = [verdict for verdict in COLORS if any(row["verdict"] == verdict and row["primary"] for row in rows)]
    style = {"linestyle": "-", "markeredgecolor": "white", "markersize": 8, "linewidth": 2}
    entries = [Line2D([], [], color=COLORS[v], marker=MARKERS[v], label=v, **style) for v in verdicts]
    if not all(row["primary"] for row in rows):
        style = {"color": DESCRIPTIVE, "marker": "o", "markersize": 4.5, "linewidth": 1.2}
        entries.append(Line2D([], [], label="another method: decides nothing", **style))
    line = {"color": "0.3", "linestyle": "--", "linewidth": 1}
    return [*entries, Line2D([], [], label="smallest effect that matters", **line)]
