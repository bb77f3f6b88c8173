"""What most jobs import: a server that has done so starts each job as a fork of itself (shared_start.py).

Missing are polars, for it starts threads, which do not outlive a fork, and whatever imports quantization libraries, as
transformers' Trainer and lm-eval's models do: the gate is a process without them. What is imported says what it has to
say in a log of its own, and not on the terminal.
"""

import gc
import importlib
import os
import traceback

from scripts.lib.cluster.shared_start import LOG

SLOW = (
    "snakemake.cli",
    "scripts.lib.models.lean",  # before transformers' models
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "datasets",
    "matplotlib.figure",
)


def load() -> None:
    """Import all of it, with file descriptors 1 and 2 on the log."""
    terminal = [os.dup(number) for number in (1, 2)]
    os.makedirs(os.path.dirname(LOG), exist_ok=True)
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    try:
        for module in SLOW:
            try:
                importlib.import_module(module)
            except Exception:  # the job that needs it will say so
                traceback.print_exc()
    finally:
        for number, kept in zip((1, 2), terminal, strict=True):
            os.dup2(kept, number)
            os.close(kept)
    gc.freeze()  # all of it stays: no job's garbage collector has to look at it


load()
