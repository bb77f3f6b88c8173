import math

import numpy as np
import polars as pl
import pytest

from scripts.lib.analysis.costs import read_benchmark
from scripts.lib.analysis.metrics import first_draws
from scripts.lib.analysis.tables import RUNS, TABLES, write_csv
from scripts.tabulate import tabulate
from tests.unit.synthetic_study import (
    Study,
    two_peaks,
    write_benchmark,
    write_loss,
    write_quantized,
    write_slice,
    write_study,
    write_tasks,
)

LOW = [point for point in two_peaks() if point[0] == "low"]
CELL = ("low", "step-400", "rtn-w3-g32")


@pytest.fixture
def study(tmp_path) -> Study:
    return write_study(tmp_path, LOW[:2], {"rtn-w3-g32": (3, 0.02), "gptq-w3-g32": (3, 0.014)}, documents=40)


def rows(table: pl.DataFrame, cell=CELL, **values) -> list[dict]:
    """Rows of `measurements` of one cell, on all tokens."""
    cell = dict(zip(("trajectory", "checkpoint", "method"), cell, strict=True))
    return table.filter(pl.col("subset").is_null(), **cell, **values).to_dicts()


def test_columns_are_those_of_the_design(study):
    tables = tabulate(**study.arguments())
    assert {name: dict(table.schema) for name, table in tables.items()} == TABLES | {
        "runs": {**RUNS, "schedule.peak": pl.Float64, "seed": pl.Int64}
    }
    assert tables["missing"].is_empty()


def test_schedules_become_one_row_per_step(study):
    curves = [
        {"trajectory": "b", "steps": [0, 5], "tokens": [0, 5120], "learning_rate": [0.0, 1e-3]},
        {"trajectory": "a", "steps": [3], "tokens": [3072], "learning_rate": [2e-3]},
    ]
    table = tabulate(**study.arguments() | {"schedules": curves})["schedules"]
    assert table.columns == ["trajectory", "step", "tokens", "learning_rate"]
    assert table.rows() == [("a", 3, 3072, 2e-3), ("b", 0, 0, 0.0), ("b", 5, 5120, 1e-3)]


def test_a_loss_row_holds_the_relative_error_within_its_interval(study):
    tables = tabulate(**study.arguments())
    (row,) = rows(tables["measurements"], metric="cross_entropy")
    (base,) = rows(tables["measurements"], (*CELL[:2], "none"), metric="cross_entropy")
    frame = pl.read_parquet(study.root / "evaluated" / "/".join(CELL) / "loss-docstrings.parquet")
    assert row["value"] == pytest.approx(frame["nll"].sum() / frame["tokens"].sum())
    assert row["n"] == frame["tokens"].sum()
    assert row["baseline"] == base["value"]
    assert row["difference"] == row["value"] - base["value"]
    assert row["relative"] == row["value"] / base["value"] - 1
    assert row["lower"] < row["relative"] < row["upper"]
    assert (row["library"], row["bits"], row["group_size"], row["step"]) == ("rtn", 3, 32, 400)


def test_the_baseline_is_exactly_zero(study):
    table = tabulate(**study.arguments())["measurements"].filter(method="none")
    assert set(table["difference"]) == {0.0}
    assert set(table.drop_nulls("relative")["relative"]) == {0.0}
    assert set(table["lower"]) | set(table["upper"]) == {0.0}


def test_kl_and_agreement_have_no_relative_error(study):
    table = tabulate(**study.arguments())["measurements"].filter(pl.col("metric").is_in(["kl", "top1_agreement"]))
    assert len(table) == 12
    assert table["relative"].null_count() == len(table)


def test_accuracies_have_the_drop_and_an_interval_of_the_difference(study):
    cell = ("low", "step-1000", "rtn-w3-g32")
    (row,) = rows(tabulate(**study.arguments())["measurements"], cell, metric="accuracy", dataset="continuation")
    assert row["relative"] == pytest.approx((row["baseline"] - row["value"]) / (1 - row["baseline"]))
    assert row["lower"] <= row["difference"] <= row["upper"]
    assert row["n"] == 40


def test_an_accuracy_that_no_document_changed_still_has_a_width(study):
    cells = [(*CELL[:1], "step-1000", method) for method in ("none", CELL[2])]
    for cell in cells:
        write_tasks(study, cell, 0.01, 40)
    found = [rows(tabulate(**study.arguments())["measurements"], c, metric="accuracy", dataset="own")[0] for c in cells]
    table = tabulate(**study.arguments())["measurements"]
    (row,) = rows(table, cells[1], metric="accuracy", dataset="continuation")
    assert row["difference"] == 0
    assert row["lower"] < 0 < row["upper"] == pytest.approx(-row["lower"])
    assert found[0]["lower"] == found[0]["upper"] == 0  # the baseline itself
    assert found[1]["lower"] < 0 < found[1]["upper"]


def test_a_suite_has_a_mean_over_its_tasks(study):
    cell = ("low", "step-1000", "rtn-w3-g32")
    table = tabulate(**study.arguments())["measurements"]
    (mean,) = rows(table, cell, metric="accuracy", dataset="own")
    tasks = [rows(table, cell, metric="accuracy", dataset=task)[0] for task in ("continuation", "last_word")]
    for name in ("value", "baseline", "difference"):
        assert mean[name] == pytest.approx((tasks[0][name] + tasks[1][name]) / 2)
    assert mean["stderr"] == pytest.approx((tasks[0]["stderr"] ** 2 + tasks[1]["stderr"] ** 2) ** 0.5 / 2)
    widths = [task["upper"] - task["lower"] for task in tasks]
    assert min(widths) / 2 < mean["upper"] - mean["lower"] < max(widths)
    assert mean["lower"] < mean["difference"] < mean["upper"]
    assert (mean["n"], mean["n_effective"], mean["bits"]) == (80, 80, 3)
    assert not rows(table, cell, metric="accuracy_norm", dataset="own")  # one task has it
    assert not rows(table, cell, metric="bits_per_byte", dataset="own")


def test_a_cell_without_one_of_the_tasks_has_no_mean(study):
    cell = ("low", "step-1000", "gptq-w3-g32")
    path = study.root.joinpath("evaluated", *cell, "tasks-own.parquet")
    kept = pl.read_parquet(path).filter(pl.col("task") != "last_word")
    kept.write_parquet(path, metadata=pl.read_parquet_metadata(path))
    table = tabulate(**study.arguments())["measurements"]
    assert rows(table, cell, metric="accuracy", dataset="continuation")
    assert not rows(table, cell, metric="accuracy", dataset="own")
    assert rows(table, ("low", "step-1000", "rtn-w3-g32"), metric="accuracy", dataset="own")


@pytest.mark.parametrize(("name", "means"), [("continuation", 0), ("docstrings", 1)])
def test_a_suite_of_the_name_of_its_task_has_no_mean(study, name, means):
    """Of the name of a corpus it has one: corpora and tasks have no metric in common."""
    for path in study.tasks:
        pl.read_parquet(path).write_parquet(path, metadata=pl.read_parquet_metadata(path) | {"suite": name})
    cell = ("low", "step-1000", "rtn-w3-g32")
    table = tabulate(**study.arguments())["measurements"]
    found = rows(table, cell, metric="accuracy")
    assert {row["dataset"] for row in rows(table, cell, metric="cross_entropy")} == {"docstrings"}
    assert len(found) == 2 + means


def test_the_effective_number_of_documents_is_that_of_their_sizes(study):
    (row,) = rows(tabulate(**study.arguments())["measurements"], metric="cross_entropy")
    frame = pl.read_parquet(study.root / "evaluated" / "/".join(CELL) / "loss-docstrings.parquet")
    sizes = frame.group_by("document").agg(pl.col("tokens").sum())["tokens"].to_numpy().astype(float)
    assert row["n_effective"] == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum())
    assert 20 < row["n_effective"] < 40


def test_identical_inputs_give_identical_bytes(study, tmp_path):
    contents = []
    for turn in ("first", "second"):
        for name, table in tabulate(**study.arguments()).items():
            table.write_parquet(tmp_path / f"{turn}-{name}.parquet")
            write_csv(table, tmp_path / f"{turn}-{name}.csv")
        contents.append([path.read_bytes() for path in sorted(tmp_path.glob(f"{turn}-*"))])
    assert contents[0] == contents[1]


def test_a_refused_quantization_is_missing_once_with_its_reason(study):
    write_quantized(study, CELL[:2], CELL[2], 3, status="refused", reason="group size 33 does not divide 64")
    write_loss(study, CELL, 1.0, 0.0, 0, status="refused", reason="passed on")
    tables = tabulate(**study.arguments())
    (row,) = tables["missing"].to_dicts()
    assert (row["stage"], row["reason"]) == ("quantize", "group size 33 does not divide 64")
    assert not rows(tables["measurements"])


def test_a_cell_that_was_refused_before_it_ran_is_missing(study):
    cell = {"trajectory": "low", "checkpoint": "step-2000", "method": "rtn-w4-g128"}
    refused = [cell | {"reason": "does not fit"}]
    (row,) = tabulate(**study.arguments(), refused=refused)["missing"].to_dicts()
    assert row == {"study": "made-up", **cell, "stage": "quantize", "dataset": None, "reason": "does not fit"}


def test_a_refused_evaluation_is_missing(study):
    write_loss(study, CELL, 1.0, 0.0, 0, status="refused", reason="loss is not finite in window 3")
    (row,) = tabulate(**study.arguments())["missing"].to_dicts()
    assert (row["stage"], row["dataset"], row["method"]) == ("evaluate_loss", "docstrings", "rtn-w3-g32")
    assert row["reason"] == "loss is not finite in window 3"


def test_a_loss_that_is_not_finite_is_missing_and_not_measured(study):
    write_loss(study, CELL, float("nan"), 0.0, 40)
    tables = tabulate(**study.arguments())
    assert [row["reason"] for row in tables["missing"].to_dicts()] == ["cross_entropy is not finite"]
    assert not rows(tables["measurements"])
    assert tables["measurements"]["value"].is_finite().all()


def test_cells_without_a_usable_baseline_are_missing(study):
    write_loss(study, (*CELL[:2], "none"), 1.0, 0.0, 0, status="refused", reason="broken")
    missing = tabulate(**study.arguments())["missing"]
    reasons = {row["method"]: row["reason"] for row in missing.to_dicts()}
    assert reasons["none"] == "broken"
    assert "no baseline" in reasons["rtn-w3-g32"]
    assert "no baseline" in reasons["gptq-w3-g32"]


@pytest.mark.parametrize(
    ("documents", "dtype", "reason"), [(39, "float32", "same documents"), (40, "bfloat16", "bfloat16")]
)
def test_cells_that_were_evaluated_otherwise_than_their_baseline_are_missing(study, documents, dtype, reason):
    write_loss(study, CELL, 3.0, 0.01, documents, dtype=dtype)
    (row,) = tabulate(**study.arguments())["missing"].to_dicts()
    assert reason in row["reason"]


def test_a_result_without_its_manifest_is_an_error_that_names_the_file(study):
    study.quantized.pop()
    with pytest.raises(ValueError, match=r"loss-docstrings\.parquet measures low/step-1000/"):
        tabulate(**study.arguments())


def test_one_task_in_two_suites_is_an_error(study):
    path = write_tasks(study, ("low", "step-1000", "none"), 0.0, 40)
    study.tasks.append(path)
    with pytest.raises(ValueError, match="task of two suites"):
        tabulate(**study.arguments())


def test_one_document_has_no_interval(tmp_path):
    study = write_study(tmp_path, LOW[:1], {"nf4": (4, 0.003)}, documents=1, tasks=False)
    table = tabulate(**study.arguments())["measurements"]
    assert table["lower"].null_count() == table["stderr"].null_count() == len(table) > 0


def test_costs_hold_only_jobs_of_this_study(study):
    costs = tabulate(**study.arguments())["costs"]
    assert costs.filter(rule="corpus")["dataset"].to_list() == ["docstrings"]
    assert costs.filter(rule="train").select("trajectory", "checkpoint").rows() == [("low", "1")]
    assert len(costs.filter(rule="quantize")) == 4
    assert costs.filter(rule="tokenize")["dataset"].to_list() == ["bpe/docstrings-train"]
    assert set(costs["peak_memory_bytes"]) == {512 * 1024 * 1024}
    assert costs.filter(pl.col("rule").is_in(["slice", "describe_layers"])).is_empty()


def test_costs_of_two_sliced_cells_of_a_checkpoint(tmp_path):
    study = write_study(tmp_path, LOW[:1], {"nf4": (4, 0.003), "rtn-w3-g32": (3, 0.1)}, documents=3, tasks=False)
    for method in ("nf4", "rtn-w3-g32"):
        write_slice(study, (*LOW[0][:2], method), 0.2, (3.0, 0.01), documents=3)
    write_benchmark(study, "describe_layers/" + "/".join((*LOW[0][:2], "docstrings")))
    costs = tabulate(**study.arguments())["costs"]
    assert costs.filter(rule="slice").select("method", "dataset").rows() == [
        ("nf4", "docstrings"),
        ("rtn-w3-g32", "docstrings"),
    ]
    assert costs.filter(rule="describe_layers").select("checkpoint", "method").rows() == [(LOW[0][1], None)]


def test_methods_hold_each_recipe_once_with_the_range_of_its_weight_errors(study):
    write_quantized(study, CELL[:2], CELL[2], 3, weight_error=0.07, bits_per_weight=3.0)
    write_quantized(study, ("low", "step-1000"), CELL[2], 3, versions={"torch": "2.13.0", "GPTQModel": "7.6.0"})
    write_quantized(study, ("low", "step-400"), "gptq-w3-g32", 3, status="refused", reason="broken")
    changed = {"versions": {"GPTQModel": "7.6.0", "torch": "2.12.0"}, "recipe": {"transform": {"algorithm": "awq"}}}
    write_quantized(study, ("low", "step-1000"), "gptq-w3-g32", 3, **changed)
    tables = tabulate(**study.arguments())
    gptq, rtn = tables["methods"].to_dicts()
    assert (rtn["method"], rtn["cells"]) == ("rtn-w3-g32", 2)
    assert (rtn["weight_error_lowest"], rtn["weight_error_highest"]) == (0.05, 0.07)
    assert rtn["weight_error"] == pytest.approx(0.06)
    assert rtn["bits_per_weight"] == pytest.approx(3.25)
    assert (rtn["transform"], rtn["package_version"], rtn["calibration"]) == (None, None, "corpus docstrings")
    assert (gptq["cells"], gptq["transform"], gptq["bits"], gptq["package_version"]) == (1, "awq", 3, "7.6.0")
    assert tables["versions"].rows() == [("GPTQModel", "7.6.0", "models"), ("torch", "2.12.0, 2.13.0", "models")]


def test_draws_stand_beside_their_recipe(tmp_path):
    strengths = {"rtn-w3-g32": (3, 0.02), "gptq-w3-g32": (3, 0.014), "gptq-w3-g32@2": (3, 0.015)}
    tables = tabulate(**write_study(tmp_path, two_peaks(), strengths, 40, tasks=False).arguments())
    named = tables["measurements"].select("method", "recipe", "draw").unique().sort("method")
    assert named.rows() == [
        ("gptq-w3-g32", "gptq-w3-g32", 1),
        ("gptq-w3-g32@2", "gptq-w3-g32", 2),
        ("none", None, None),
        ("rtn-w3-g32", "rtn-w3-g32", None),
    ]
    methods = tables["methods"].select("method", "recipe", "draw")
    assert methods.rows() == named.filter(pl.col("method") != "none").rows()
    assert "gptq-w3-g32@2" not in first_draws(tables["measurements"])["method"]


def test_the_ledger_of_noise_reads_draws_neighbours_and_a_repeat(tmp_path):
    strengths = {"rtn-w3-g32": (3, 0.02), "gptq-w3-g32": (3, 0.014), "gptq-w3-g32@2": (3, 0.0150)}
    one = write_study(tmp_path / "one", two_peaks(), strengths, 40, tasks=False)
    two = write_study(tmp_path / "two", two_peaks(), strengths | {"rtn-w3-g32": (3, 0.021)}, 40, tasks=False)
    tabulate(**two.arguments())["measurements"].write_parquet(tmp_path / "again.parquet")
    steps = (2000, 2200, 2400)
    near = [[(name, f"step-{step}") for step in steps] for name in ("low", "high")]
    noise = tabulate(**one.arguments(), neighbours=near, repeat=tmp_path / "again.parquet")["noise"]
    kl = noise.filter(pl.col("measure") == "kl").select("source", "method", "standard_deviation", "groups")
    found = {row[:2]: row[2:] for row in kl.rows()}
    assert found["calibration", "gptq-w3-g32"] == (pytest.approx(math.log(15 / 14) / math.sqrt(2)), 18)
    assert found["numerics", "rtn-w3-g32"] == (pytest.approx(math.log(21 / 20) / math.sqrt(2)), 18)
    assert found["numerics", "gptq-w3-g32"] == (0.0, 36)
    assert found["neighbours", "rtn-w3-g32"][1] == 2
    assert ("seeds", "rtn-w3-g32") not in found
    assert ("documents", "gptq-w3-g32@2") not in found
    assert noise.filter(source="calibration", method="rtn-w3-g32")["reason"].to_list() == ["uses no calibration text"]


def test_benchmarks_may_lack_what_snakemake_could_not_sample(tmp_path):
    path = tmp_path / "job.tsv"
    path.write_text("s\th:m:s\tmax_rss\tio_out\tcpu_time\n0.2\t0:00:00\tNA\t-\tNA\n")
    assert read_benchmark(path) == dict.fromkeys(("cpu_seconds", "peak_memory_bytes", "bytes_written")) | {
        "wall_seconds": 0.2
    }


def test_tokens_lost_and_bits_per_byte_are_measured_of_every_quantized_model(tmp_path):
    study = write_study(tmp_path, two_peaks(), {"nf4": (4, 0.004), "rtn-w3-g32": (3, 0.3)}, 60, tasks=False)
    table = tabulate(**study.arguments())["measurements"]
    losses = {
        (row["trajectory"], row["step"]): row for row in table.filter(metric="cross_entropy", method="nf4").to_dicts()
    }
    (row,) = table.filter(metric="tokens_lost", method="nf4", trajectory="low-cooldown", step=2400).to_dicts()
    run = [("low", step) for step in (400, 1000, 1400, 2000)] + [("low-cooldown", 2200), ("low-cooldown", 2400)]
    curve = [losses[place]["baseline"] for place in run]
    tokens = [losses[place]["tokens"] for place in run]
    point = np.exp(np.interp(-losses["low-cooldown", 2400]["value"], -np.array(curve), np.log(tokens)))
    assert row["value"] == pytest.approx(tokens[-1] - point) == row["difference"]
    assert row["relative"] == row["value"] / tokens[-1]
    assert 0 <= row["lower"] < row["relative"] < row["upper"] < 1
    assert (row["baseline"], row["n"], row["reason"]) == (0, losses["low", 400]["n"], None)
    far = table.filter(metric="tokens_lost", method="rtn-w3-g32", trajectory="low").sort("step").to_dicts()
    assert [row["value"] for row in far] == [None] * len(far)
    assert far[0]["reason"] == "no earlier checkpoint of its run was measured"
    assert far[1]["reason"].startswith(f"its run had this loss before {tokens[0]} tokens")
    bits = table.filter(metric="bits_per_byte").sort("method", "trajectory", "checkpoint")
    nats = table.filter(metric="cross_entropy").sort("method", "trajectory", "checkpoint")
    assert bits["value"].to_list() == pytest.approx((nats["value"] / 4 / np.log(2)).to_list())
    assert bits["relative"].to_list() == pytest.approx(nats["relative"].to_list())
    assert bits["n"].to_list() == (4 * nats["n"]).to_list()


def test_a_loss_of_an_older_version_is_an_error_that_says_what_to_do(study):
    path = study.root / "evaluated" / "/".join(CELL) / "loss-docstrings.parquet"
    metadata = pl.read_parquet_metadata(path)
    pl.read_parquet(path).drop("bytes").write_parquet(path, metadata=metadata)
    with pytest.raises(ValueError, match="low/step-400/rtn-w3-g32 on docstrings was measured by an older version"):
        tabulate(**study.arguments())
