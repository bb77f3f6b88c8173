"""`make plan` reads its jobs from Snakemake's graph, for every kind of source and of task."""

from collections import Counter

import pytest
import yaml

from scripts.lib.cluster.forecast import make_forecast
from scripts.lib.cluster.graph import read_graph
from scripts.lib.cluster.work import Works
from scripts.lib.study.plan import config_files, load_plan
from tests.tools import copy_tree, planned


@pytest.fixture(scope="module")
def tree(tmp_path_factory, tiny_model):
    """A copy of the project with a study of published and local runs, own tasks and the harness's."""
    tree = copy_tree(tmp_path_factory.mktemp("forecast") / "tree")
    steps = [{"path": str(tiny_model), "step": step, "tokens": step, "learning_rate": 0.1} for step in (1, 2)]
    own = {"source": "local", "checkpoints": [step | {"phase": "stable"} for step in steps]}
    (tree / "config/trajectories/own.yaml").write_text(yaml.safe_dump(own))
    block = {"trajectories": ["own", "pythia-160m", "olmo2-1b-ingredient1", "smoke-lawa"], "checkpoints": "last"}
    block |= {"methods": ["rtn-w4-g128", "gptq-w4-g128"], "loss": ["docstrings"], "tasks": ["smoke", "paper12"]}
    study = yaml.safe_load((tree / "config/studies/smoke.yaml").read_text())
    study["study"] = {"name": "sources", "title": "sources", "cells": [block]}
    (tree / "config/studies/sources.yaml").write_text(yaml.safe_dump(study))
    block |= {"trajectories": ["pythia-160m"], "checkpoints": [1000, 2000, 4000]}
    study["study"]["name"] = "budget"
    study |= {
        "fetch": {"keep_weights": False, "disk_budget": 3},
        "quantize": study["quantize"] | {"keep_weights": False},
    }
    (tree / "config/studies/budget.yaml").write_text(yaml.safe_dump(study))
    return tree


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize("study", ["smoke", "sources", "budget"])
def test_the_jobs_that_snakemake_plans(tree, study, monkeypatch):
    monkeypatch.chdir(tree)
    jobs = read_graph(config_files(study), Works(load_plan(study)))
    assert not any(job.done for job in jobs)
    assert Counter(job.stage for job in jobs) == planned(tree, study)
    assert all(max(job.after, default=-1) < place for place, job in enumerate(jobs))
    ways = {(jobs[before].stage, job.stage) for job in jobs for before in job.after}
    assert {("tabulate", "plot"), ("tabulate", "report"), ("report", "all")} <= ways
    assert ("measured", "make_room") in ways or study != "budget", "a lane is a way through the graph"


def test_hours_of_the_reference_study_are_those_of_its_estimate():
    """GPU-hours of an H100 by stage, worked out by hand from passes, tokens and rates; within a factor of 1.5."""
    forecast = make_forecast(load_plan("paper"), config_files("paper"), 1)
    for stage, hours in {"quantize": 360, "evaluate_loss": 40, "evaluate_tasks": 750}.items():
        jobs = [job for job in forecast.jobs if job.stage == stage]
        found = forecast.seconds(jobs, forecast.defaults) / 3600
        assert hours / 1.5 < found < 1.5 * hours, (stage, found)
