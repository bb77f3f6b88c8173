"""make report: what is there of an unfinished study, and what is missing on top; a run then takes up just that."""

import shutil
import subprocess
import sys

import polars

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
    log = "results/logs/evaluate_loss/smoke/step-20/rtn-w4-g32/smoke.log"
    assert sorted(missing.select("trajectory", "method", "stage", "reason").rows()) == [
        ("smoke", "rtn-w4-g32", "evaluate_loss", f"ended without a result: see {log}"),
        ("smoke-lawa", "rtn-w3-g32", "quantize", "not measured yet"),
    ]
    page = (tree / "results/partial/smoke/smoke.html").read_text()
    assert page.index("This study is not finished") < page.index(log) < page.index('id="Answers"')
    assert (tree / "results/partial/smoke/smoke.ipynb").is_file()
    assert planned(tree, "smoke") == {"quantize": 1, "evaluate_loss": 2} | AFTER_CELLS


def test_nothing_is_there(tree):
    for folder in ("resources", "results"):
        shutil.rmtree(tree / folder)
    command = [sys.executable, "-m", "scripts.commands.report", "smoke"]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(polars.read_parquet(tree / "results/partial/smoke/tables/missing.parquet")["reason"]) == {
        "not measured yet"
    }
