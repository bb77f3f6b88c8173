"""Tables of made-up studies whose values follow a law exactly, but for noise."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from scripts.lib.analysis.laws.forms import BY_NAME
from scripts.lib.analysis.laws.problems import Problem, problems
from scripts.lib.analysis.metrics import CROSS_ENTROPY, KL
from scripts.lib.study.schedules import learning_rate

TOKENS_PER_STEP, DATASET = 2048, "docstrings"
TRUNK_STEPS = (200, 400, 600, 800, 1200, 1600, 2000, 2400)
COOLDOWNS = ((400, 200), (800, 100), (800, 400), (1600, 200), (1600, 800), (2000, 400))  # start and length
TRUTHS = {  # parameters in the law's order
    "kumar": (0.3, 0.5, 1.5, 0.0),
    "ouyang": (40.0, 0.5, 5.0, 0.0),
    "two-factors": (2.0, 0.5, 0.6, 120.0, 0.3, 1.5, 0.0),
    "annealing": (2.5, 0.6, 0.5, 0.4, 300.0, 0.0),
    "multi-power": (2.5, 0.6, 0.5, 0.3, 20.0, 0.6, 0.4, 0.0),
    "tokens-and-rate": (2.0, 0.5, -0.6, 1.5, 0.0),
}


@dataclass(frozen=True)
class Design:
    """Which runs, checkpoints and bits a made-up study has."""

    seeds: tuple[int, ...] = (1, 2, 3, 4)
    peaks: tuple[float, ...] = (3e-3, 6e-3, 1.2e-2)
    bits: tuple[int, ...] = (2, 3, 4)
    trunk: tuple[int, ...] = TRUNK_STEPS
    cooldowns: tuple[tuple[int, int], ...] = COOLDOWNS


def tables(design: Design) -> dict[str, pl.DataFrame]:
    """The tables of a design, all values 1: a trunk a seed and peak, and its cooldowns."""
    runs, schedules, checkpoints = [], [], []
    for peak in design.peaks:
        for seed in design.seeds:
            trunk = f"run-{peak:g}-{seed}"
            plans = [(trunk, "trunk", None, 0, {"name": "constant", "peak": peak, "warmup": 50}, design.trunk)]
            for start, length in design.cooldowns:
                decay = {"name": "wsd", "peak": peak, "warmup": 50, "decay": {"start": start, "end": start + length}}
                plans.append((f"{trunk}-{start}-{length}", "branch", trunk, start, decay, (start + length,)))
            for name, kind, parent, start, schedule, kept in plans:
                run = {"trajectory": name, "family": kind, "root": trunk, "kind": kind, "parent": parent}
                at = f"step-{start}" if parent else None
                runs.append(run | {"parent_checkpoint": at, "seed": seed, "schedule.peak": peak})
                steps = np.arange(start, max(kept) + 1, 4)
                rates = learning_rate(schedule, steps)
                known = {"step": steps, "tokens": steps * TOKENS_PER_STEP, "learning_rate": rates}
                schedules.append(pl.DataFrame({"trajectory": [name] * len(steps)} | known))
                for step in kept:
                    rate = float(learning_rate(schedule, step))
                    point = {"trajectory": name, "checkpoint": f"step-{step}", "step": step, "learning_rate": rate}
                    point |= {"tokens": step * TOKENS_PER_STEP, "phase": "decay" if parent else "stable"}
                    checkpoints.append(point | {"parameters": 1_000_000})
    methods = [("none", None), *((f"rtn-w{bits}", bits) for bits in design.bits)]
    names = ("trajectory", "checkpoint", "step", "tokens", "learning_rate", "phase")
    rows = []
    for point in checkpoints:
        for method, bits in methods:
            place = {name: point[name] for name in names} | {"dataset": DATASET, "subset": None, "draw": None}
            place |= {"method": method, "recipe": method, "bits": bits, "baseline": 0.0, "value": 1.0}
            rows += [place | {"metric": metric.name} for metric in (CROSS_ENTROPY, KL)]
    alike = {"algorithm": "rtn", "transform": None, "library": "rtn", "group_size": 32, "symmetric": True}
    same = [alike | {"calibration": None, "recipe": f"rtn-w{bits}"} for bits in design.bits]
    noise = dict.fromkeys(("source", "measure", "method", "dataset"), pl.String) | {"standard_deviation": pl.Float64}
    return {
        **{"runs": pl.DataFrame(runs, infer_schema_length=None), "schedules": pl.concat(schedules)},
        **{"checkpoints": pl.DataFrame(checkpoints), "measurements": pl.DataFrame(rows, infer_schema_length=None)},
        **{"methods": pl.DataFrame(same, infer_schema_length=None), "noise": pl.DataFrame(schema=noise)},
    }


def follow(blank: dict[str, pl.DataFrame], names: tuple[str, ...], generator, noise=0.01, by_run=0.02) -> dict:
    """The tables with values of laws, each that of the first quantity it was made for, and no others.

    Args:
        blank: as of `tables`.
        names: laws, with the parameters of `TRUTHS`.
        generator: of noise.
        noise, by_run: standard deviations of the logarithm, of cells and of runs.
    """
    keys, columns, parts = ["trajectory", "checkpoint", "recipe"], blank["measurements"].columns, []
    for name in names:
        law = BY_NAME[name]
        problem = the_problem(blank, law.quantities[0])
        cells = problem.cells
        roots = {root: by_run * generator.standard_normal() for root in sorted(set(cells.units))}
        logs = law.log_value(cells.points, *TRUTHS[name])[cells.index] + [roots[root] for root in cells.units]
        values = np.exp(logs + noise * generator.standard_normal(len(logs)))
        planted = pl.DataFrame([{key: row[key] for key in keys} for row in problem.rows]).with_columns(value=values)
        metric = KL.name if problem.quantity == KL.name else CROSS_ENTROPY.name
        rows = blank["measurements"].filter(metric=metric).drop("value")
        parts.append(rows.join(planted, on=keys, how="inner", maintain_order="left").select(columns))
    return blank | {"measurements": pl.concat(parts)}


def the_problem(made: dict[str, pl.DataFrame], quantity: str) -> Problem:
    """The only problem of a quantity."""
    (found,) = (problem for problem in problems(made) if problem.quantity == quantity)
    return found
