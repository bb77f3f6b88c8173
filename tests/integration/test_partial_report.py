"""make report: what is there of an unfinished study, and what is missing on top; a run then takes up just that."""

import shutil
import subprocess
import sys

import polars
import pytest

from tests.tools import AFTER_CELLS, planned


def test_what_is_there_is_shown_and_the_rest_named(tree):
    for folder in ("tables", "figures", "report"):  # a run that did not get so far
        shutil.rmtree(tree / "results" / folder)
    shutil.rmtree(tree / "results/evaluated/smoke/step-20/rtn-w4-g32")
    shutil.rmtree(tree / "results/quantized/smoke-lawa/step-40/rtn-w3-g32")
    (tree / "results/logs/quantize/smoke-lawa/step-40/rtn-w3-g32.log").unlink()
    command = [sys.executable, "-m", "scripts.commands.report", "smoke"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote results/partial/smoke/smoke.html\n"
    missing = polars.read_parquet(tree / "results/partial/smoke/tables/missing.parquet")
    log, of_slice = (f"results/logs/{stage}/smoke/step-20/rtn-w4-g32/smoke.log" for stage in ("evaluate_loss", "slice"))
    assert sorted(missing.select("trajectory", "method", "stage", "reason").rows()) == [
        ("smoke", "rtn-w4-g32", "evaluate_loss", f"ended without a result: see {log}"),
        ("smoke", "rtn-w4-g32", "slice", f"ended without a result: see {of_slice}"),
        ("smoke-lawa", "rtn-w3-g32", "quantize", "not measured yet"),
    ]
    page = (tree / "results/partial/smoke/smoke.html").read_text()
    assert page.index("This study is not finished") < page.index(log) < page.index('id="Answers"')
    assert (tree / "results/partial/smoke/smoke.ipynb").is_file()
    assert planned(tree, "smoke") == {"quantize": 1, "evaluate_loss": 2, "slice": 1} | AFTER_CELLS


def test_nothing_is_there(tree):
    for folder in ("resources", "results"):
        shutil.rmtree(tree / folder)
    command = [sys.executable, "-m", "scripts.commands.report", "smoke"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(polars.read_parquet(tree / "results/partial/smoke/tables/missing.parquet")["reason"]) == {
        "not measured yet"
    }


@pytest.mark.full  # test_redraw is for every day
def test_a_partly_measured_study_is_published_and_redrawn_without_its_results(tree):
    shutil.rmtree(tree / "results/evaluated/smoke/step-20/rtn-w4-g32")
    published, redraw = (
        [sys.executable, "-m", f"scripts.commands.{name}", "smoke"] for name in ("publish_study", "redraw")
    )
    done = subprocess.run(published, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("wrote reports/published/smoke, ")
    before = polars.read_parquet(tree / "results/tables/smoke/measurements.parquet")
    for folder in ("resources", "results"):
        shutil.rmtree(tree / folder)
    done = subprocess.run(redraw, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "wrote results/redrawn/smoke/smoke.html\nall verdicts are those that were published\n"
    after = polars.read_parquet(tree / "results/redrawn/smoke/tables/measurements.parquet")
    key = ("trajectory", "checkpoint", "method", "dataset", "metric", "subset")
    both = after.join(before, on=key, nulls_equal=True, how="inner")
    assert len(both) == len(after) < len(before)
    known = both.drop_nulls(["value", "value_right"])
    assert (known["value"] / known["value_right"] - 1).abs().fill_nan(0).max() < 1e-9
    page = (tree / "results/redrawn/smoke/smoke.html").read_text()
    assert "This study is not finished" in page
    assert "| evaluate_loss | ended without a result | 1 |" in (tree / "reports/published/smoke/README.md").read_text()
