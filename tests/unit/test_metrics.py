import dataclasses
import math

import numpy as np
import polars as pl
import pytest

from scripts import evaluate_loss, evaluate_tasks
from scripts.lib.analysis import measures, metrics
from scripts.lib.analysis.metrics import CROSS_ENTROPY, LOSS_METRICS, METRICS, Part, error_of, rows_in, rows_of
from scripts.lib.report.tables import errors, losses
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import two_peaks, write_study

CELL = ("low", "step-400", "none")
METADATA = {"corpus": "docstrings", "dtype": "float32"}
SEGMENTS = pl.DataFrame(  # document a lies in two windows
    {
        "window": [0, 0, 1],
        "document": ["a", "b", "a"],
        "tokens": [2, 3, 4],
        "bytes": [8.0, 10.0, 16.0],
        "nll": [3.0, 6.0, 9.0],
        "kl": [0.5, 0.0, 0.25],
        "agree": [2, 1, 3],
    }
)
WHOLE = tuple(dataclasses.replace(m, parts=tuple(p for p in m.parts if p.subset is None)) for m in LOSS_METRICS)


@pytest.fixture
def whole(monkeypatch):
    """Metrics of loss on all tokens alone."""
    monkeypatch.setattr(measures, "LOSS_METRICS", WHOLE)


def test_metrics_of_loss_are_summed_by_document_and_weighted_by_tokens(whole):
    found = {measure.metric: measure for measure in measures.read_loss(SEGMENTS, CELL, METADATA)}
    per_byte = found.pop("bits_per_byte")
    assert per_byte.sums == pytest.approx([12.0 / math.log(2), 6.0 / math.log(2)])
    assert per_byte.sizes.tolist() == [24.0, 10.0]
    assert {name: measure.sums.tolist() for name, measure in found.items()} == {
        "cross_entropy": [12.0, 6.0],
        "kl": [0.75, 0.0],
        "top1_agreement": [5.0, 1.0],
    }
    assert all(measure.sizes.tolist() == [6.0, 3.0] for measure in found.values())


def test_every_part_of_a_metric_is_a_measure_of_its_own(monkeypatch):
    many = pl.col("tokens") > 2
    longer = Part(
        "longer segments", pl.when(many).then("nll").otherwise(0.0), pl.when(many).then("tokens").otherwise(0)
    )
    split = dataclasses.replace(WHOLE[0], parts=(*WHOLE[0].parts, longer))
    monkeypatch.setattr(measures, "LOSS_METRICS", (split,))
    every, part = measures.read_loss(SEGMENTS, CELL, METADATA)
    assert (every.subset, part.subset) == (None, "longer segments")
    assert (part.sums.tolist(), part.sizes.tolist()) == ([9.0, 6.0], [4.0, 3.0])
    assert len(measures.paired([every, part], {})) == 2


def test_a_subset_without_tokens_is_missing_and_leaves_the_rest(whole):
    found = measures.read_loss(SEGMENTS, CELL, METADATA)
    empty = dataclasses.replace(found[0], subset="decile 3", sums=np.zeros(2), sizes=np.zeros(2))
    missing = {}
    assert measures.paired([*found, empty], missing) == found
    assert list(missing) == [(*CELL, "evaluate_loss", "docstrings", "cross_entropy of decile 3 is not finite")]


@pytest.mark.parametrize(
    ("name", "value", "baseline", "error"),
    [
        ("cross_entropy", 3.0, 2.0, 0.5),
        ("bits_per_byte", 1.5, 1.0, 0.5),
        ("cross_entropy", 3.0, 0.0, None),
        ("accuracy", 0.5, 0.75, 1.0),
        ("accuracy_norm", 0.75, 0.5, -0.5),
        ("accuracy", 0.5, 1.0, None),
        ("kl", 0.2, 0.0, None),
        ("top1_agreement", 0.9, 1.0, None),
        ("exact_match", 0.25, 0.5, None),
    ],
)
def test_errors_are_those_of_the_paper(name, value, baseline, error):
    assert error_of(METRICS[name], value, baseline) == error


def test_every_metric_of_the_harness_that_is_kept_is_defined():
    assert set(evaluate_tasks.METRICS.values()) == {metric.name for metric in metrics.TASK_METRICS}
    of_both = [metric.name for metric in metrics.TASK_METRICS if metric.parts]
    assert of_both == ["bits_per_byte"]
    assert all(metric.parts for metric in LOSS_METRICS)


def test_metrics_of_loss_read_columns_that_evaluate_loss_writes():
    read = {name for metric in LOSS_METRICS for part in metric.parts for name in part.total.meta.root_names()}
    assert read <= set(evaluate_loss.SCHEMA)


def test_parts_of_the_tokens_stand_in_tables_of_the_report_and_not_where_all_tokens_are_meant():
    rows = [("cross_entropy", "c", None), ("cross_entropy", "c", "decile 1"), ("kl", "c", None)]
    rows += [("bits_per_byte", "c", None), ("bits_per_byte", "rolling", None), ("accuracy", "t", None)]
    table = pl.DataFrame(rows, ("metric", "dataset", "subset"), orient="row")
    assert rows_of(table, CROSS_ENTROPY)["subset"].to_list() == [None]
    assert rows_in(table, metrics.LOSS)["subset"].to_list() == [None, "decile 1"]
    assert rows_in(table, metrics.TASK).select("metric", "dataset").rows() == [
        ("bits_per_byte", "rolling"),
        ("accuracy", "t"),
    ]


def test_a_new_part_reaches_the_tables_and_the_report_and_changes_nothing_else(tmp_path, whole, monkeypatch):
    low = [point for point in two_peaks() if point[0] == "low"][:2]
    study = write_study(tmp_path, low, {"nf4": (4, 0.003)}, documents=40, tasks=False)
    before = tabulate(**study.arguments())
    late = pl.col("window") > 9  # half of the windows
    half = Part("late windows", late.cast(int) * pl.col("nll"), late.cast(int) * pl.col("tokens"))
    split = dataclasses.replace(WHOLE[0], parts=(*WHOLE[0].parts, half))
    monkeypatch.setattr(measures, "LOSS_METRICS", (split, *WHOLE[1:]))
    after = tabulate(**study.arguments())
    kept = after["measurements"].filter(pl.col("subset").is_null())
    exact = ("value", "baseline", "difference", "relative", "n")
    assert kept.select(exact).equals(before["measurements"].select(exact))
    (row,) = after["measurements"].filter(subset="late windows", method="nf4", checkpoint="step-400").to_dicts()
    frame = pl.read_parquet(tmp_path / "evaluated/low/step-400/nf4/loss-docstrings.parquet").filter(late)
    assert row["value"] == pytest.approx(frame["nll"].sum() / frame["tokens"].sum())
    assert row["lower"] < row["relative"] < row["upper"]
    shown = {
        when: losses("all", errors(part["measurements"])).as_raw_html()
        for when, part in (("before", before), ("after", after))
    }
    assert "late windows" in shown["after"]
    assert "tokens of" not in shown["before"]
