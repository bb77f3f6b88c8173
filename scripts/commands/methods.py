"""make methods: the study `methods`, and its table of what works on which class of model, config/recipes/README.md."""

import statistics
import subprocess
import sys
from pathlib import Path

import polars as pl

from scripts.lib.analysis.metrics import CROSS_ENTROPY, rows_of
from scripts.lib.runtime import manifests
from scripts.lib.study.plan import BASELINE, Plan, load_plan

PAGE = Path("config/recipes/README.md")
COMMAND = ["--profile", "workflow/profiles/local", "--configfile", "config/studies/methods.yaml", "--until", "tabulate"]
TEXT = """# Methods and architectures

What each recipe does to one small model of each class ({models}), trained by the
workflow itself on the docstrings of its own packages: {count} cells, of which {works} work and {refused} are refused. A
number is the **loss difference** to the unquantized model in thousandths of a nat per token, over {tokens} validation
tokens, with half the width of its 95 % interval. What works has passed the checks of
[config/README.md](../README.md), "Before a quantized model is published". The models have two blocks of width 256 and
saw a million tokens: what works carries over, how methods rank need not. Empty: not run.

Unquantized losses, nats a token: {baselines}.

{table}

`bits`: a weight, with scales and zero points: counted in the files, or worked out (*) where these hold dense weights.
`s`: seconds of quantizing and saving, median over the models; importing the library ({imports:.1f} s) and the check
in a fresh process ({gate:.1f} s) come on top.

{notes}

Written by `make methods`, which runs the study `methods`; not by hand.
"""


def write_page(plan: Plan) -> str:
    """The page, from the finished study.

    Args:
        plan: the study `methods`.

    Raises:
        FileNotFoundError: the study has not been run to its tables.
    """
    measured = pl.read_parquet(Path(plan.paths.tables(plan.config["study"]["name"]), "measurements.parquet"))
    measured = rows_of(measured, CROSS_ENTROPY)
    rows = {(row["trajectory"], row["method"]): row for row in measured.to_dicts()}
    models = list(dict.fromkeys(cell.trajectory for cell in plan.cells))
    methods = list(dict.fromkeys(name for block in plan.config["study"]["cells"] for name in block["methods"]))
    quantized = [cell for cell in plan.cells if cell.method != BASELINE]
    cells = {cell: manifests.read(f"{plan.paths.quantized(*cell.names)}/manifest.json") for cell in quantized}
    cells |= {cell: {"status": "refused", "reason": reason} for cell, reason in plan.refused.items()}
    reasons: dict[str, int] = {}
    lines = [f"| method | bits | s | {' | '.join(map(short, models))} |", "|---|---:|---:|" + "---:|" * len(models)]
    for method in methods:
        own = {cell.trajectory: manifest for cell, manifest in cells.items() if cell.method == method}
        found = [describe(own.get(model), rows.get((model, method)), reasons) for model in models]
        lines.append(f"| `{method}` | {bits(own.values())} | {seconds(own.values())} | {' | '.join(found)} |")
    good = [manifest for manifest in cells.values() if manifest["status"] == "ok"]
    baselines = {model: rows[model, BASELINE]["value"] for model in models}
    return TEXT.format(
        models=", ".join(map(short, models)),
        count=len(cells),
        works=len(good),
        refused=len(cells) - len(good),
        tokens=f"{measured['n'].max():,}",
        baselines=", ".join(f"{short(model)} {value:.3f}" for model, value in baselines.items()),
        table="\n".join(lines),
        imports=statistics.median(manifest["seconds"]["import"] for manifest in good),
        gate=statistics.median(manifest["seconds"]["gate"] for manifest in good),
        notes="\n".join(f"{number}. {reason}" for reason, number in reasons.items()),
    )


def describe(manifest: dict | None, row: dict | None, reasons: dict[str, int]) -> str:
    """One cell of the table; why it is refused becomes a numbered note. Empty if the study has no such cell."""
    if manifest is None:
        return ""
    if manifest["status"] != "ok":
        return f"refused ({reasons.setdefault(manifest['reason'], len(reasons) + 1)})"
    if row is None:
        return "not measured"
    half = 1000 * (row["upper"] - row["lower"]) / 2 * row["baseline"]
    return f"{1000 * row['difference']:+.1f} ± {half:.1f}"


def bits(cells) -> str:
    """Bits a weight, of the models that work; `*` if its files do not pack them."""
    good = [manifest for manifest in cells if manifest["status"] == "ok"]
    if not good:
        return ""
    dense = "*" if good[0]["format"] == "dense" else ""
    return f"{statistics.median(manifest['bits_per_weight'] for manifest in good):.2f}{dense}"


def seconds(cells) -> str:
    """Seconds of transforming, quantizing and saving, median over the models that work."""
    parts = ("transform", "quantize", "save")
    good = [manifest["seconds"] for manifest in cells if manifest["status"] == "ok"]
    return f"{statistics.median(sum(laps.get(part, 0) for part in parts) for laps in good):.1f}" if good else ""


def short(model: str) -> str:
    return model.removeprefix("methods-")


def main() -> None:
    """Run the study as far as its tables and write the page."""
    subprocess.run([sys.executable, "-m", "snakemake", *COMMAND], check=True)
    PAGE.write_text(write_page(load_plan("methods")))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
