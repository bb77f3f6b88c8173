"""Worlds with a known truth: runs of several seeds, each a trunk with cooldowns of equal length, and how hard they are
to quantize, which tokens raise, the decay raises, both or neither."""

import math
from pathlib import Path

import numpy as np

from scripts.lib.runtime.config_files import read_yaml
from tests.unit.synthetic_study import (
    Point,
    Study,
    write_checkpoint,
    write_loss,
    write_quantized,
)

PEAK, LENGTH, ENDS = 6e-3, 200, (1400, 1900, 2400)
METHOD, BASE = "gptq-w3-g32", 0.02


def points(seed: int, ends=ENDS) -> list[Point]:
    """A trunk, seen where its cooldowns end, their ends, and an average."""
    trunk = f"run-{seed}"
    found = [(trunk, f"step-{end}", None, end, PEAK, PEAK, "stable") for end in ends]
    for end in ends:
        start = end - LENGTH
        found.append((f"{trunk}-cooldown-{start}", f"step-{end}", f"{trunk}/step-{start}", end, 0.0, PEAK, "decay"))
    return [*found, (f"{trunk}-lawa", f"step-{ends[-1]}", trunk, ends[-1], PEAK, PEAK, "average")]


def lineage(found: list[Point], seeds: dict[str, int | None], weight_decay: float = 0.5, **more: dict) -> list[dict]:
    """Rows as of `study.lineage` of these runs.

    Args:
        found: the checkpoints.
        seeds: of each trunk; None for a published run.
        weight_decay: of all of them.
        more: other values by trajectory.
    """
    rows = {}
    for name, _, parent, step, _, peak, phase in found:
        trunk = parent.partition("/")[0] if parent else None
        kind = "average" if phase == "average" else "branch" if parent else "trunk"
        root = trunk or name
        branched = int(parent.rpartition("-")[2]) if kind == "branch" else None
        settings = {"schedule.peak": peak, "optimizer.weight_decay": weight_decay, "seed": seeds[root]}
        if kind == "branch":
            settings |= {"schedule.name": "wsd", "schedule.decay.start": branched, "schedule.decay.end": step}
        if kind == "average":
            settings["average.scheme"] = "lawa"
        rows[name] = {
            **{"trajectory": name, "root": root, "kind": kind, "parent": trunk, "parent_step": branched},
            **{"seed": seeds[root], "stage": None, "soup_of": [], "weight_decay": weight_decay},
            **{"decay_start": branched, "decay_end": step if branched else None},
            **{"decay_rate": peak if branched else None, "batch_changes": []},
            "settings": {} if seeds[root] is None else settings,
            **more.get(name, {}),
        }
    return list(rows.values())


def claim(name: str, method: str = METHOD, references: dict | None = None, **changes) -> dict:
    """A shipped claim as a plan has it."""
    content = read_yaml(Path(f"config/claims/{name}.yaml")) | changes
    return content | {"method": method, "dataset": "docstrings", "references": references or {method: method}}


def world(
    root: Path,
    tokens: float,
    decay: float,
    seeds=(1, 2, 3),
    spread: float = 0.01,
    methods=(METHOD,),
    lawa: float = -0.3,
) -> tuple[Study, list[dict]]:
    """A study of these runs and its lineage.

    Args:
        root: where it is written.
        tokens: growth of the logarithm of KL for a doubling of the tokens.
        decay: by how much the decay raises it. lawa: the average.
        seeds: of the runs.
        spread: standard deviation between cells.
        methods: what they are quantized with; of draws, names with `@k`.
    """
    study, found = Study(root), [point for seed in seeds for point in points(seed)]
    generator = np.random.default_rng(5)
    for point in found:
        write_checkpoint(study, point)
        growth = tokens * math.log2(point[3] / ENDS[0]) + {"decay": decay, "average": lawa}.get(point[6], 0.0)
        loss = {"decay": 3.0, "average": 3.05}.get(point[6], 3.2) - 0.05 * math.log2(point[3] / ENDS[0])
        write_loss(study, (*point[:2], "none"), loss, 0.0, 60)
        for method in methods:
            write_quantized(study, point[:2], method, 3)
            error = BASE * math.exp(growth + spread * generator.standard_normal())
            write_loss(study, (*point[:2], method), loss, error, 60)
    return study, lineage(found, {f"run-{seed}": seed for seed in seeds})
