"""Pieces of the report as HTML: headings, figures and tables; every function returns a string."""

import html
import importlib.metadata
import platform
import re
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import polars as pl
import yaml

from scripts.lib.analysis.tracks import short_count, short_rate
from scripts.lib.report.findings import interval, points, verdict

WORKFLOW = ("snakemake", "polars", "matplotlib", "seaborn")
DASH = "–"


def show(text: str) -> None:
    """Display HTML in the notebook."""
    from IPython.display import HTML, display

    display(HTML(text))


def table(rows: list[dict], columns: dict[str, Callable | None], empty: str = "None.") -> str:
    """An HTML table that scrolls by itself.

    Args:
        rows: one dictionary a row.
        columns: heading of each column and how it is made from a row; None takes the row's value of that name.
        empty: what is said if there is no row.
    """
    if not rows:
        return f"<p>{html.escape(empty)}</p>"
    cells = [[_cell(make(row) if make else row[name]) for name, make in columns.items()] for row in rows]
    numeric = [all(_is_number(row[place]) for row in cells) for place in range(len(columns))]
    kind = [' class="number"' if number else "" for number in numeric]
    head = "".join(f"<th{kind[place]}>{html.escape(name)}</th>" for place, name in enumerate(columns))
    lines = []
    for row in cells:
        shaped = [kind[place] or (' class="words"' if len(text) > 60 else "") for place, text in enumerate(row)]
        lines.append("".join(f"<td{shape}>{text}</td>" for shape, text in zip(shaped, row, strict=True)))
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def folded(summary: str, text: str) -> str:
    """HTML that opens on a click."""
    return f"<details><summary>{html.escape(summary)}</summary>{text}</details>"


def boxed(text: str) -> str:
    """The finding, set apart."""
    return f'<p class="finding">{html.escape(text)}</p>'


def heading(
    title: str, study: str, checkpoints: pl.DataFrame, measurements: pl.DataFrame, lacking: pl.DataFrame
) -> str:
    """Title of the page and one line on how much the study holds."""
    cells = measurements.select("trajectory", "checkpoint", "method").n_unique()
    size = f"{len(checkpoints)} checkpoints, {cells} cells measured (the baselines among them), {len(lacking)} missing"
    return f'<h1>{html.escape(title)}</h1><p class="lead">Study <code>{html.escape(study)}</code>: {size}.</p>'


def figure(name: str, path: str, caption: str) -> str:
    """One figure: its SVG inline, with ids of its own so that figures on one page do not share any, and its caption."""
    svg = Path(path).read_text()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(
        r'(<svg[^>]*?) width="[^"]*pt"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", svg, count=1), count=1
    )
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{name}" ', 1)
    words = name.replace("_", " ").capitalize()
    return f'<h3 id="{name}">{words}</h3><figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>'


def contrasts_html(contrasts: pl.DataFrame) -> str:
    """Every pair behind the finding, with the difference of the two errors in percentage points."""
    corpus = {"corpus": lambda row: row["dataset"]} if contrasts["dataset"].n_unique() > 1 else {}
    columns = {
        "comparison": lambda row: row["kind"],
        **corpus,
        "method": None,
        "cell": lambda row: f"{row['trajectory']}, step {row['step']}",
        "compared with": _reference,
        "error": interval,
        "its error": lambda row: interval(row, "reference_"),
        "difference (points)": points,
        "the error is": verdict,
        "baseline loss": lambda row: f"{row['baseline']:.3f}",
        "its baseline loss": lambda row: f"{row['reference_baseline']:.3f}",
    }
    note = "Relative errors; brackets are paired intervals. An error is called higher or lower if the interval of the "
    note += "difference, from the same resampled documents for both cells, leaves out zero."
    text = table(contrasts.to_dicts(), columns, "There is nothing to compare.")
    return folded(f"All {len(contrasts)} comparisons", f'<p class="note">{note}</p>{text}')


def methods(described: list[dict]) -> str:
    """One row a method, from the manifests of its quantized cells."""
    groups = defaultdict(list)
    for item in described:
        if item["kind"] == "quantized" and item["status"] == "ok":
            groups[item["method"]].append(item)
    columns = {
        "recipe": lambda part: part[0]["method"],
        "algorithm": lambda part: _algorithm(part[0]),
        "library": lambda part: _library(part[0]),
        "bits": lambda part: str(part[0]["bits"] or "mixed"),
        "group size": lambda part: str(part[0]["group_size"]),
        "symmetric": lambda part: "yes" if part[0]["symmetric"] else "no",
        "bits per weight": lambda part: f"{statistics.fmean(item['bits_per_weight'] for item in part):.2f}",
        "weight error": _weight_error,
        "calibration": lambda part: _settings(part[0]["calibration"]),
        "cells": lambda part: str(len(part)),
    }
    return table([groups[name] for name in sorted(groups)], columns, "No cell was quantized.")


def losses(measurements: pl.DataFrame, caption: str) -> str:
    """Baseline loss and relative errors: the last checkpoint of every trajectory, then all checkpoints."""
    part = measurements.filter(pl.col("metric") == "cross_entropy")
    keys = ("dataset", "trajectory", "step", "checkpoint")
    wide = {}
    for row in part.sort(*keys).iter_rows(named=True):
        wide.setdefault(tuple(row[key] for key in keys), {})[row["method"]] = row
    last = {key[:2]: key for key in wide}
    names = sorted(set(part["method"]) - {"none"})
    corpus = {"corpus": lambda row: row["none"]["dataset"]} if part["dataset"].n_unique() > 1 else {}
    columns = {
        **corpus,
        "trajectory": lambda row: row["none"]["trajectory"],
        "step": lambda row: str(row["none"]["step"]),
        "tokens": lambda row: short_count(row["none"]["tokens"]),
        "learning rate": lambda row: short_rate(row["none"]["learning_rate"]),
        "baseline loss": lambda row: f"{row['none']['value']:.4f}",
        **{name: lambda row, name=name: interval(row[name]) if name in row else DASH for name in names},
    }
    ends = table([wide[key] for key in last.values()], columns, "No loss was measured.")
    measured = f"Loss on {', '.join(sorted(part['dataset'].unique()))} in nats per token"
    note = f'<p class="note">{html.escape(measured)}; relative errors of the methods with paired intervals.</p>'
    everything = folded(f"All {len(wide)} checkpoints", table(list(wide.values()), columns, "None."))
    title = '<h3 id="losses">Loss at the end of every trajectory</h3>'
    return f'{title}{note}{ends}{everything}<p class="note">{html.escape(caption)}</p>'


def task_scores(measurements: pl.DataFrame) -> str:
    """Scores of tasks, plain and with standard errors; only at checkpoints where tasks were evaluated."""
    part = measurements.filter(~pl.col("metric").is_in(["cross_entropy", "kl", "top1_agreement"]))
    columns = {
        "trajectory": None,
        "step": lambda row: str(row["step"]),
        "method": None,
        "task": lambda row: row["dataset"],
        "metric": None,
        "score": lambda row: f"{row['value']:.4f}",
        "standard error": lambda row: DASH if row["stderr"] is None else f"{row['stderr']:.4f}",
        "baseline": lambda row: f"{row['baseline']:.4f}",
        "drop or relative error": lambda row: DASH if row["relative"] is None else f"{100 * row['relative']:.2f} %",
        "documents": lambda row: str(row["n"]),
    }
    text = table(part.to_dicts(), columns, "No tasks were evaluated.")
    return '<h3 id="task-scores">Task scores</h3>' + (folded(f"All {len(part)} scores", text) if len(part) else text)


def missing(lacking: pl.DataFrame) -> str:
    """Cells without a result and why."""
    names = ("trajectory", "checkpoint", "method", "stage", "dataset", "reason")
    return table(lacking.to_dicts(), dict.fromkeys(names), "None: every cell of the study has its results.")


def costs(spent: pl.DataFrame) -> str:
    """Jobs, times and peak memory by rule."""
    rules = spent.group_by("rule").agg(
        pl.len().alias("jobs"),
        pl.col("wall_seconds", "cpu_seconds", "bytes_written").sum(),
        pl.col("peak_memory_bytes").max(),
        pl.col("device").drop_nulls().unique().sort().str.join(", "),
    )
    columns = {
        "rule": None,
        "jobs": lambda row: str(row["jobs"]),
        "wall time": lambda row: _duration(row["wall_seconds"]),
        "CPU time": lambda row: _duration(row["cpu_seconds"]),
        "peak memory of a job": lambda row: _size(row["peak_memory_bytes"]),
        "written": lambda row: _size(row["bytes_written"]),
        "device": lambda row: row["device"] or DASH,
    }
    note = f'<p class="note">Sums over jobs; together {_duration(spent["wall_seconds"].sum())} of job time.</p>'
    text = table(
        rules.sort("wall_seconds", "rule", descending=[True, False]).to_dicts(), columns, "No benchmark files."
    )
    return note + text if len(spent) else text


def versions(described: list[dict]) -> str:
    """Versions that made the models, from their manifests, and those that made this page."""
    found = defaultdict(set)
    for item in described:
        for name, version in item["versions"].items():
            found[name].add(version)
    rows = [
        {"package": name, "version": ", ".join(sorted(found[name])), "used for": "models"} for name in sorted(found)
    ]
    here = {"Python": platform.python_version(), **{name: importlib.metadata.version(name) for name in WORKFLOW}}
    rows += [{"package": name, "version": version, "used for": "this report"} for name, version in here.items()]
    return table(rows, dict.fromkeys(("package", "version", "used for")))


def citation(path: str) -> str:
    """How to cite the study that is reproduced and this software, from CITATION.cff."""
    cited = yaml.safe_load(Path(path).read_text())
    people = [
        " ".join(author[part] for part in ("given-names", "family-names", "name") if part in author)
        for author in cited["authors"]
    ]
    version = f", version {cited['version']}" if "version" in cited else ""
    software = f"{', '.join(people)}: {cited['title']}{version}."
    return (
        "<p>The phenomenon and the metrics: <strong>arXiv:2510.06213</strong>.</p>"
        f"<p>This software: <strong>{html.escape(software)}</strong> CITATION.cff holds this for machines.</p>"
    )


def _cell(value) -> str:
    return html.escape(DASH if value is None or value == "" else str(value))


def _is_number(text: str) -> bool:
    version = re.match(r"[0-9]+\.[0-9]+\.", text)
    return text == DASH or bool(re.match(r"[-+]?[0-9]", text) and not version)


def _reference(row: dict) -> str:
    place = f"{row['reference_trajectory']}, step {row['reference_step']}"
    return place if row["method"] == row["reference_method"] else row["reference_method"]


def _library(item: dict) -> str:
    """The library, with the version of its package if it has one."""
    return f"{item['library']} {item['versions'].get(item['package'], '')}".strip()


def _algorithm(item: dict) -> str:
    """The rounding, after what is done before it, if anything is."""
    transform = item.get("recipe", {}).get("transform", {}).get("algorithm")
    return f"{transform} + {item['algorithm']}" if transform else item["algorithm"]


def _weight_error(part: list[dict]) -> str:
    errors = [item["weight_error"] for item in part]
    return f"{statistics.fmean(errors):.4f} [{min(errors):.4f}, {max(errors):.4f}]"


def _settings(values: dict | None) -> str:
    shown = {
        key: value
        for key, value in (values or {}).items()
        if isinstance(value, (str, int, float)) and len(str(value)) < 30
    }
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return DASH
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(count: float | None) -> str:
    if count is None:
        return DASH
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
