"""A large study, made up, and what it costs to plan it with `snakemake --profile slurm -n`."""

import resource
import subprocess
import sys
from pathlib import Path

import yaml

from tests.tools import copy_tree, job_counts

METHODS = 9  # and the baseline
RUN = 50  # checkpoints of one trajectory


def large_study(target: Path, checkpoints: int) -> Path:
    """A copy of the project with a study `large`: so many checkpoints x 10 methods, one loss and one suite each."""
    tree = copy_tree(target)
    config = tree / "config"
    run = yaml.safe_load((config / "trajectories/smoke.yaml").read_text())
    run |= {"keep": list(range(100, 100 * RUN + 1, 100)), "restart": [1000, 2000, 3000, 4000]}
    names = [f"run-{number}" for number in range(checkpoints // RUN)]
    for name in names:
        (config / f"trajectories/{name}.yaml").write_text(yaml.safe_dump(run))
    recipe = yaml.safe_load((config / "recipes/gptq-w3-g16.yaml").read_text())
    methods = [f"gptq-w3-g{16 * (number + 1)}" for number in range(METHODS)]
    for method in methods:
        (config / f"recipes/{method}.yaml").write_text(yaml.safe_dump(recipe))
    study = yaml.safe_load((config / "studies/smoke.yaml").read_text())
    block = {"trajectories": names, "methods": methods, "loss": ["smoke"], "tasks": ["smoke"]}
    study["study"] = {"name": "large", "title": "large", "cells": [block]}
    (config / "studies/large.yaml").write_text(yaml.safe_dump(study))
    return tree


def plan_command(*before: str) -> list[str]:
    """The dry-run of the study `large`; what is given stands in the place of `-m snakemake`."""
    start = [sys.executable, *(before or ("-m", "snakemake"))]
    return [*start, "--profile", "slurm", "--dry-run", "--quiet", "reason", "--configfile", "config/studies/large.yaml"]


def plan_cost(target: Path, checkpoints: int) -> dict[str, float]:
    """Jobs, CPU seconds and peak memory (MB) of planning."""
    tree = large_study(target, checkpoints)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(plan_command(), cwd=tree, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"jobs": sum(job_counts(done.stdout).values()), "seconds": seconds, "MB": after.ru_maxrss / 1024}
