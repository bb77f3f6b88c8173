"""make methods: the page of a finished study has what works and what is refused, while planning too."""

import polars as pl

from scripts.commands.methods import COLUMNS, MEASURED, PAGE, merge, results, write_page
from scripts.lib.analysis.tables import MEASUREMENTS
from scripts.lib.runtime import manifests
from scripts.lib.runtime.config_files import read_yaml
from scripts.lib.study.plan import make_plan


def test_a_cell_that_was_refused_in_planning_is_refused_on_the_page(tmp_path):
    cells = {
        "trajectories": ["methods-llama"],
        "methods": ["rtn-w3-g64", "rtn-w3-g64-asym", "q4_k_m"],
        "checkpoints": "last",
    }
    study = {"name": "methods", "title": "made up", "cells": [cells | {"loss": ["docstrings"]}]}
    folders = {"resources": str(tmp_path), "results": str(tmp_path)}
    plan = make_plan(read_yaml("config/default.yaml") | {"study": study, "folders": folders})
    good, bad, early = (next(cell for cell in plan.cells if cell.method == name) for name in cells["methods"])
    plan.refused = {early: "widths must be multiples of 256"}
    del plan.losses[early], plan.tasks[early]
    seconds = {"import": 1.0, "quantize": 2.0, "save": 0.5, "gate": 3.0}
    about = {"status": "ok", "format": "dense", "bits_per_weight": 3.25, "seconds": seconds}
    about |= {"weight_error": 0.2, "output_error": 0.1}
    for cell, manifest in ((good, about), (bad, {"status": "refused", "reason": "it did not reload"})):
        manifests.write(f"{plan.paths.quantized(*cell.names)}/manifest.json", manifest)
    row = dict.fromkeys(MEASUREMENTS) | {"trajectory": "methods-llama", "metric": "cross_entropy", "n": 1000}
    numbers = {"value": 4.25, "baseline": 4.2, "difference": 0.05, "lower": 0.01, "upper": 0.02}
    rows = [row | numbers | {"method": name} for name in ("none", "rtn-w3-g64")]
    tables = tmp_path / "tables/methods"
    tables.mkdir(parents=True)
    pl.DataFrame(rows, schema=MEASUREMENTS).write_parquet(tables / "measurements.parquet")
    measured = results(plan)
    page = write_page(measured)
    assert "3 cells, of which 1 work and 2 are refused" in page
    assert "| `rtn-w3-g64` | 3.25* | 2.5 | +50.0 ± 21.0 |" in page
    assert "| `rtn-w3-g64-asym` |  |  | refused (1) |" in page
    assert "| `q4_k_m` |  |  | refused (2) |" in page
    assert "1. it did not reload\n2. widths must be multiples of 256" in page
    real = measured.with_columns(
        study=pl.lit("methods-real"), model=pl.lit("large"), difference=2 * pl.col("difference")
    )
    both = merge(merge(real, measured), real)
    assert both.rows() == [*measured.rows(), *real.rows()]
    assert "| `rtn-w3-g64` | 3.25* | 2.5 | +50.0 ± 21.0 | +100.0 ± 21.0 |" in write_page(both)


def test_the_page_is_what_was_measured():
    assert PAGE.read_text() == write_page(pl.read_csv(MEASURED, schema=COLUMNS))
