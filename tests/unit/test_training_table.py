"""The table `training`: logs of all links of a run, thinned."""

from pathlib import Path

import polars as pl

from scripts.lib.analysis.training import MOST_LINES, TRAINING, thinned, training_table
from scripts.lib.study.plan import load_plan
from tests.unit.synthetic_study import TOKENS_PER_STEP, two_peaks, write_study


def test_logs_are_thinned_to_means_that_end_with_the_last_step():
    steps = pl.DataFrame({"step": range(10, 1010, 10), "loss": [float(n) for n in range(100)]})
    log = steps.with_columns(trajectory=pl.lit("low"), tokens=10 * pl.col("step"), learning_rate=0.5)
    thin = thinned(log, 4)
    assert thin.columns == log.columns
    assert len(thin) == 25
    assert thin.row(-1) == (1000, 97.5, "low", 10_000, 0.5)
    assert thinned(log, 1).equals(log)
    assert thinned(log.clear(), 2).is_empty()


def test_a_run_has_the_lines_of_all_its_links(tmp_path):
    (tmp_path / "changes.yaml").write_text(f"folders: {{resources: {tmp_path}}}\n")
    plan = load_plan("smoke", str(tmp_path / "changes.yaml"))
    assert training_table(plan.training_logs()).schema == TRAINING
    for link, steps in (("from-0", (10, 20)), ("from-20", (30, 40))):
        path = Path(plan.paths.link("smoke", link), "log.parquet")
        path.parent.mkdir(parents=True)
        pl.DataFrame({"step": steps, "loss": 5.0, "learning_rate": 0.1}).write_parquet(path)
    rows = training_table(plan.training_logs())
    assert rows.schema == TRAINING
    assert rows.select("trajectory", "step", "tokens").rows() == [("smoke", s, 512 * s) for s in (10, 20, 30, 40)]
    assert rows["weight_norm"].null_count() == 4, "which logs did not have before"


def test_all_runs_are_thinned_alike_and_averages_have_no_log(tmp_path):
    study = write_study(tmp_path, two_peaks(), {}, documents=4, tasks=False)
    given, log = study.training(), study.root / "log-low-0.parquet"
    pl.DataFrame({"step": range(1, 1001), "loss": 3.0, "learning_rate": 0.1}).write_parquet(log)
    rows = training_table(given)
    lines = dict(rows.group_by("trajectory").len().iter_rows())
    logged = {"low": 1000 + 120, "low-cooldown": 40, "high": 240, "high-cooldown": 40}
    assert lines == {name: -(-count // 6) for name, count in logged.items()}
    assert max(lines.values()) <= MOST_LINES
    assert (rows["tokens"] == TOKENS_PER_STEP * rows["step"]).all()
