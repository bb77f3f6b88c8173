"""Laws in the report: how well each predicts what was left out, as a figure, a sentence a law, and the whole table."""

import html
import textwrap

import polars as pl
from great_tables import GT
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from scripts.lib.analysis.laws.forms import BY_NAME, QUANTITIES
from scripts.lib.analysis.laws.problems import quantity_words
from scripts.lib.analysis.laws.scoring import SPLITS
from scripts.lib.analysis.laws.table import LAW, PARAMETER, SCORE
from scripts.lib.report import figures
from scripts.lib.report.numbers import percent, with_interval
from scripts.lib.report.tables import table, wrapped

NOTHING_LEFT_OUT = "No law has predicted anything of this study: that takes two runs, or later checkpoints of one."
MOST_PANELS = 6
COLORS = dict(zip(SPLITS, ("#0072b2", "#c04a00", "#00805f", "#7a4fa3", "#5b6472"), strict=True))
MARKERS = dict(zip(SPLITS, figures.MARKERS, strict=False))
TITLE_WIDTH = 34  # characters
WIDE = 10  # from lowest to highest error, above which an axis has fewer numbers
LOWEST = 1e-4  # of the errors that are shown
ROW, APART = 0.34, 0.17  # inches a law; between the splits of a law, in rows
PROBLEM = ("quantity", "methods", "dataset")


def draw(laws: pl.DataFrame | None) -> Figure:
    """A panel a quantity and group of methods, a row a law; how far off it is on what was left out, and the noise."""
    scores = None if laws is None else laws.filter(pl.col("entry") == SCORE, pl.col("estimate").is_not_null())
    if scores is None or scores.is_empty():
        return figures.placeholder(NOTHING_LEFT_OUT)
    parts = [part for _, part in scores.group_by(*PROBLEM, maintain_order=True)]
    parts = sorted(parts, key=lambda part: list(QUANTITIES).index(part["quantity"][0]))[:MOST_PANELS]
    most = max(part["law"].n_unique() for part in parts)
    figure, axes, _ = figures.panels(len(parts), 2, 0.5 + ROW * most)
    for axis, part in zip(axes, parts, strict=True):
        _draw_panel(axis, part, scores["dataset"].n_unique() > 1)
    shown = [name for name in SPLITS if name in set(scores["name"])]
    style = {"linestyle": "", "markersize": 6}
    entries = [Line2D([], [], color=COLORS[n], marker=MARKERS[n], label=SPLITS[n], **style) for n in shown]
    figures.legend(figure, [*entries, Patch(color="0.9", label="noise of a change")], most=3)
    return figure


def _draw_panel(axis, part: pl.DataFrame, several: bool) -> None:
    """The scores of one problem, those of a law below each other."""
    names = part["law"].unique(maintain_order=True).to_list()
    splits = [name for name in SPLITS if name in set(part["name"])]
    values = []
    for row in part.to_dicts():
        place = names.index(row["law"]) + APART * (splits.index(row["name"]) - (len(splits) - 1) / 2)
        color = COLORS[row["name"]]
        axis.plot(row["estimate"], place, color=color, marker=MARKERS[row["name"]], markersize=5, linestyle="")
        if row["lower"] is not None:
            bounds = max(row["lower"], row["estimate"] / 10), row["upper"]
            axis.plot(bounds, [place, place], color=color, linewidth=1.2)
        values.append(row["estimate"])
    axis.set_xscale("log")
    close = max(values) < WIDE * min(values)
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if close else (1, 3), numticks=8))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))
    left, right = max(min(values), LOWEST) / 2, max(*values, LOWEST) * 2
    axis.set_xlim(left, right)
    noise = part["noise"].drop_nulls()
    if len(noise):
        axis.axvspan(left, min(max(noise[0], left), right), color="0.9", zorder=0)
    axis.set_yticks(range(len(names)), [BY_NAME[name].words for name in names], fontsize=9)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("error on what was left out")
    title = quantity_words(part["quantity"][0], part["methods"][0] or "")
    title = f"{title} · {part['dataset'][0]}" if several else title
    axis.set_title(textwrap.fill(title, TITLE_WIDTH), fontsize=9)


def sentences(laws: pl.DataFrame) -> HTML:
    """One sentence a law and quantity; baselines are in the figure and the table."""
    told = [row["text"] for row in laws.filter(entry=LAW).to_dicts() if not BY_NAME[row["law"]].baseline]
    if not told:
        return HTML('<p class="note">No law could be fitted: no run has a loss and a whole schedule.</p>')
    return HTML("<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in told) + "</ul>")


def shown(laws: pl.DataFrame) -> GT:
    """All parameters and scores."""
    rows = laws.filter(pl.col("entry") != LAW)
    found = [
        percent(*(row[name] for name in ("estimate", "lower", "upper")))
        if row["entry"] == SCORE
        else with_interval(row["estimate"], row["lower"], row["upper"])
        for row in rows.to_dicts()
    ]
    what = {SCORE: "error on ", PARAMETER: ""}
    names = [what[row["entry"]] + SPLITS.get(row["name"], row["name"]) for row in rows.to_dicts()]
    words = {law.name: law.words for law in BY_NAME.values()}
    frame = rows.select(
        pl.col("quantity").replace(QUANTITIES),
        *("methods", "dataset"),
        pl.col("law").replace(words),
        pl.Series("what", names, pl.String),
        pl.Series("estimate", found, pl.String),
        *("published", "runs", "cells"),
        pl.coalesce("verdict", "reason").alias("remark"),
    )
    frame = frame.drop("dataset") if frame["dataset"].n_unique() <= 1 else frame
    return wrapped(table("laws", frame, "No law could be fitted."), "remark").fmt_number("published", n_sigfig=3)
