"""Prints the benchmark table. Run as `python -m tests.benchmarks` from the root, after `make smoke` or `make demo`.

`python -m tests.benchmarks race [--model FOLDER]` runs the race against the reference's flow.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from tests.benchmarks import measures
from tests.benchmarks.race import race

METHODS = (
    *("rtn-w3-g64", "gptq-w3-g64", "gptq-w3-g64-natural-llmcompressor", "awq-w4-g64-asym", "spinquant-w3-g64"),
    *("autoround-w3-g64", "hqq-w3-g64", "mixed-w3-g64", "nf4", "mxfp4"),
)

# What the project allows its ratios to be. Of quantizing: the whole over the library's call, and memory over the model
# in float32. Of a small model, with 23 MB of weights, the first says nothing, and memory is mostly what any job holds.
LEAST = {"evaluate_loss": {"ratio": 0.6}, "train": {"ratio": 0.8}}
QUANTIZE = {"memory": 20, "gate_memory": 5}
LARGE_QUANTIZE = {"ratio": 1.3, "memory": 2, "gate_memory": 1}
NANOSECONDS = {"unpack": 6, "levels": 15, "statistics": 7, "codes": 6}
MEMORY = {
    "float32": {"quantize": 8, "gate": 4, "loss": 5, "tasks": 5},
    "bfloat16": {"quantize": 8, "gate": 4, "loss": 2.5, "tasks": 2.5},
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    command = commands.add_parser("race", help="the reference's flow against ours; prints `ratio R` last")
    command.add_argument("--model", type=Path, help="model folder; by default a Llama of 110 M random weights")
    asked = parser.parse_args()
    if asked.command == "race":
        race(asked.model, len(os.sched_getaffinity(0)))
    else:
        table()


def table() -> None:
    """Run every measurement once and print its ratio with what bounds it."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tokenizer = Path("resources/tokenizers/docstrings-2048/tokenizer")
    if not tokenizer.is_dir():
        sys.exit(f"{tokenizer} does not exist; run `make demo` first")
    with tempfile.TemporaryDirectory() as scratch:
        small = measures.model_folder(Path(scratch) / "small", measures.SMALL, tokenizer)
        larger = measures.model_folder(Path(scratch) / "larger", measures.LARGER, tokenizer)
        least = LEAST["evaluate_loss"]
        show("evaluate_loss / bare forward passes, width 96", measures.loss_throughput(small, 128, 5), least=least)
        show("evaluate_loss / bare forward passes, width 256", measures.loss_throughput(larger, 64, 5), least=least)
        show("  bounded by: exponentials over the vocabulary (softmax, logsumexp) and argmax, besides the models")
        trained = measures.training_throughput(tokenizer, 20, 5)
        show("train / bare PyTorch loop, width 96", trained, least=LEAST["train"])
        show("  bounded by: the forward and backward passes themselves")
        for name in METHODS:
            recipe = Path(f"config/recipes/{name}.yaml")
            parts = measures.quantize_parts(larger, recipe, 128)
            parts.pop("ratio")
            show(f"quantize {name}, width 256, wall seconds", parts, QUANTIZE)
        for bits in (3, 4):
            show(f"gate, {bits} bits, CPU ns a weight on one thread", measures.gate_nanoseconds(bits, 3), NANOSECONDS)
        large = measures.model_folder(Path(scratch) / "large", measures.HUNDRED_MILLION, tokenizer)
        recipe = Path("config/recipes/gptq-w4-g64.yaml")
        parts = measures.quantize_parts(large, recipe, 128)
        show("quantize gptq-w4-g64, 102 M parameters, wall seconds", parts, LARGE_QUANTIZE)
        show("  gate / library", {"ratio": parts["gate"] / parts["library"]}, {"ratio": 0.1})
        show("  bounded by: the library's call; the gate loads source and result and runs both on the probe")
        for millions, shape in measures.MEMORY_SIZES.items():
            folder = measures.model_folder(Path(scratch) / f"of-{millions}", shape, tokenizer, torch.bfloat16)
            for dtype, limits in MEMORY.items():
                title = f"memory, {millions} M parameters in bfloat16, evaluated in {dtype}, bytes a weight"
                show(title, measures.memory_of_stages(folder, dtype, small), limits)
    imports = measures.import_seconds(2)
    show("imports, CPU seconds a process", imports)
    share = measures.start_up_share(Path("results/tables/demo/costs.parquet"), imports)
    if share:
        for row in share["stages"]:
            show(f"  demo, {row['stage']}: {row['len']} jobs", {"CPU": row["cpu_seconds"], "imports": row["start"]})
        show("share of the demo's CPU time in imports", {"share": share["share"]}, {"share": 0.25})
        show("  bounded by: one process a job, each importing torch and transformers anew")


def show(title: str, numbers: dict | None = None, most: dict | None = None, least: dict | None = None) -> None:
    """Print one line; each number with the most or the least that it may be, and marked where it is not."""
    shown = []
    for name, value in (numbers or {}).items():
        text = f"{name} {value:.2f}"
        for word, limits, fine in (("at most", most, float.__le__), ("at least", least, float.__ge__)):
            if name in (limits or {}):
                missed = "" if fine(float(value), float(limits[name])) else ", MISSED"
                text += f" ({word} {limits[name]}{missed})"
        shown.append(text)
    print(f"{title}{': ' if shown else ''}{', '.join(shown)}", flush=True)


if __name__ == "__main__":
    main()
