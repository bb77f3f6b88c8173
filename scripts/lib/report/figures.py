"""Style of all figures, beside the theme of the config: one width, reproducible files, axes, legends and colours."""

import html
import io
import logging
import re
import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from scripts.lib.analysis.tracks import short_count, short_rate

WIDTH = 9.0  # inches; 900 pixels on a page
PIXELS = 200  # of the PNG, per inch
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # of the SVG
FORMATS = {  # what each file of a figure is saved with
    "svg": {"metadata": NO_METADATA},
    "png": {"metadata": {"Software": None}, "dpi": PIXELS},
    "pdf": {"metadata": dict.fromkeys(("CreationDate", "Creator", "Producer"))},
}
BASELINE = "none"
RATE_COLOR, INK = "0.55", "0.15"
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDE = 20  # from lowest to highest, above which an axis of positive numbers is logarithmic


def use_style(theme: dict) -> None:
    """Set seaborn's theme, and what makes SVGs reproducible and their text searchable.

    Args:
        theme: the config's section `plot`, arguments of seaborn.set_theme; a style without a grid gets a light one.
    """
    seaborn.set_theme(**theme)
    if not plt.rcParams["axes.grid"]:
        plt.rcParams.update({"axes.grid": True, "grid.color": "0.92", "axes.edgecolor": "0.4"})
    plt.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "trajquant",
            "pdf.fonttype": 42,  # text that can be searched and edited
            "font.family": ["DejaVu Sans"],
            "figure.dpi": 100,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.axisbelow": True,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.h_pad": 0.08,
            "figure.constrained_layout.w_pad": 0.08,
        }
    )


def save(figure: Figure, **files: Path) -> None:
    """Write a figure to files, given by their `FORMATS`, and close it.

    Text is kept as text in SVG and PDF; no file has a date, and all have the same bytes every time.
    """
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells every glyph of a PDF
    _lay_out(figure)
    for kind, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format=kind, **FORMATS[kind])
    plt.close(figure)


def _lay_out(figure: Figure) -> None:
    """Place the axes once and for all, in whole millionths of the figure.

    The solver of matplotlib's constrained layout orders its variables by their addresses, so that the last bits of the
    positions, and with them the bytes of a file, are others from one drawing to the next.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        axis.set_position([round(part, 6) for part in axis.get_position(original=True).bounds])


def inline(figure: Figure, name: str, caption: str):
    """A figure with its caption as HTML in a notebook, and close it; of a placeholder the text alone.

    The SVG is that of `save`, but as wide as the page, and with ids of its own so that no two figures share any.
    """
    from IPython.display import HTML

    if figure.get_label():
        plt.close(figure)
        return HTML(f'<p class="note">{html.escape(figure.get_label())}</p>')
    buffer = io.StringIO()
    _lay_out(figure)
    figure.savefig(buffer, format="svg", metadata=NO_METADATA)
    plt.close(figure)
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*pt"', "", opening)
    opening = opening.replace("<svg ", f'<svg role="img" aria-label="{name}" ')
    return HTML(f"<figure>{opening}>{rest}<figcaption>{html.escape(caption)}</figcaption></figure>")


def method_colors(methods: list[str]) -> dict[str, tuple]:
    """Colours for methods, always the same for the same list: the theme's, or evenly spaced hues where it has too few.

    The baseline is nearly black.
    """
    others = [method for method in methods if method != BASELINE]
    palette = seaborn.color_palette()
    if len(others) > len(palette):
        palette = seaborn.color_palette("husl", len(others))
    return {BASELINE: (0.15, 0.15, 0.15), **dict(zip(others, palette, strict=False))}


def method_markers(methods: list[str]) -> dict[str, str]:
    """Markers for methods, beside their colours."""
    return {method: MARKERS[number % len(MARKERS)] for number, method in enumerate(methods)}


def grid(columns: int, heights: tuple[float, ...], height: float, **options) -> tuple[Figure, np.ndarray]:
    """A figure of panels in columns, whose rows have these shares of `height` inches; the panels, (rows, columns)."""
    size = (WIDTH, height * sum(heights) + 1.0)
    ratios = {"height_ratios": heights}
    return plt.subplots(len(heights), columns, figsize=size, squeeze=False, gridspec_kw=ratios, **options)


def panels(count: int, columns: int, height: float, strip: bool = False, **options) -> tuple[Figure, list, list]:
    """A figure of `count` panels in a grid, with one flat panel below every column if `strip`.

    Returns:
        The figure, the list of panels, and the list of strips (empty without `strip`).
    """
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    ratios = [1.0] * rows + ([0.42] if strip else [])
    size = (WIDTH, height * sum(ratios) + 1.0)
    ratio = {"height_ratios": ratios}
    figure, axes = plt.subplots(len(ratios), columns, figsize=size, squeeze=False, gridspec_kw=ratio, **options)
    flat = list(axes[:rows].ravel())
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count], list(axes[rows]) if strip else []


def placeholder(text: str) -> Figure:
    """A figure that says why there is nothing to show, also in its label."""
    figure, axis = plt.subplots(figsize=(WIDTH, 1.6), label=text)
    axis.set_axis_off()
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=11, color="0.35", wrap=True)
    return figure


def token_axis(axis) -> None:
    """Label an x axis with training tokens."""
    axis.set_xlabel("training tokens")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
    axis.set_xlim(left=0)
    axis.locator_params(axis="x", nbins=6)


def rate_axis(axis, highest: float, room: float = 1.12) -> None:
    """Label a y axis with learning rates from 0 to `room` times the highest; three ticks."""
    highest = highest or 1.0
    axis.set_ylim(0, highest * room)
    axis.set_yticks([0, highest / 2, highest])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_rate(value)))
    axis.grid(visible=False)


def zero_axis(axis) -> None:
    """Let a y axis begin at zero, or hold zero where there are negative values."""
    bottom, top = axis.get_ylim()
    axis.set_ylim(min(bottom, 0.0) if axis.dataLim.y0 < 0 else 0.0, max(top, 0.0))


def percent_axis(axis, which: str = "y") -> None:
    """Show shares as percentages with no more digits than needed."""
    formatter = FuncFormatter(lambda value, _: f"{100 * value:.3g} %")
    (axis.yaxis if which == "y" else axis.xaxis).set_major_formatter(formatter)


def positive_axis(axis) -> None:
    """Let a y axis of positive numbers begin at zero, or be logarithmic where they span much."""
    lowest, highest = axis.dataLim.intervaly
    if lowest > 0 and highest > WIDE * lowest:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)


def scale_ends(axis, values: list[float], share: bool) -> None:
    """An x axis of ends: logarithmic where they are all positive and span much; shares in percent."""
    if share:
        percent_axis(axis, "x")
    known = [value for value in values if value is not None]
    if known and min(known) > 0 and max(known) > WIDE * min(known):
        axis.set_xscale("log")
        log_ticks(axis.xaxis, share)
    else:
        axis.locator_params(axis="x", nbins=4)


def log_ticks(side, share: bool = False) -> None:
    """Ticks at 1, 2 and 5 of each power of ten along a logarithmic axis, as plain numbers, or in percent."""
    side.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    side.set_minor_locator(NullLocator())
    side.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %" if share else f"{value:.3g}"))


def focus(values: list[float]) -> tuple[float, float]:
    """Limits that show the late, low losses: from the lowest to 1.6 times the range of the lower three quarters.

    Losses of the first checkpoints are so high that they would press all others into a corner.
    """
    low, quarter, high = np.quantile(values, [0, 0.75, 1])
    high = min(high, low + 1.6 * (quarter - low)) if quarter > low else high
    room = 0.06 * (high - low) or 0.05
    return low - room, high + room


def legend(figure: Figure, entries: list[Line2D], most: int = 5) -> None:
    """One legend for the whole figure, below it, in as many columns as its width has room for."""
    if entries:
        columns = next(n for n in range(min(most, len(entries)), 0, -1) if n == 1 or _legend_width(entries, n) < WIDTH)
        figure.legend(handles=entries, loc="outside lower center", ncols=columns, fontsize=9, handlelength=2.6)


def _legend_width(entries: list[Line2D], columns: int) -> float:
    """About how wide a legend is, in inches."""
    lengths = np.array([len(entry.get_label()) for entry in entries])
    return sum(0.75 + 0.078 * part.max() for part in np.array_split(lengths, columns))
