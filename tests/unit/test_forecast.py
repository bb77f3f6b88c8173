"""Forecast: paces fitted to made-up jobs, sizes, disk and times worked out by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from scripts.lib.cluster import forecast, requests
from scripts.lib.cluster.forecast import Forecast, Pace, fit, make_forecast
from scripts.lib.cluster.graph import Job
from scripts.lib.cluster.work import Works
from scripts.lib.study.plan import Cell, Plan, config_files, load_plan
from scripts.lib.study.sizes import quantized_bytes
from scripts.lib.study.trajectories.local import Local
from scripts.lib.study.trajectories.published import Published

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
DEFAULT = Pace(10, 100)
FILES = {"config.json": {"bytes": 10}, "model.safetensors": {"bytes": 4000}}


@pytest.fixture
def smoke(tmp_path):
    """The plan of the smoke study, nothing of which is done."""
    (tmp_path / "folders.yaml").write_text(
        f"folders: {{resources: {tmp_path}/resources, results: {tmp_path}/results}}\n"
    )
    return load_plan("smoke", str(tmp_path / "folders.yaml"))


def forecast_of(smoke: Plan) -> Forecast:
    """What the smoke study will cost, with two jobs at once."""
    return make_forecast(smoke, config_files("smoke", str(Path(smoke.paths.results).with_name("folders.yaml"))), 2)


@pytest.fixture
def published(tmp_path):
    """A published run of two checkpoints, one of them locked, with two methods."""
    plan = Plan({"folders": {name: str(tmp_path / name) for name in ("resources", "results")}})
    plan.config |= {"quantize": {"keep_weights": True}, "fetch": {"keep_weights": True, "disk_budget": None}}
    plan.config |= {"compute": {"dtype": "float32"}, "evaluate_loss": {"windows": 10, "window": 5}}
    plan.trajectories["run"] = Published(
        "run",
        repo="of/run",
        tokenizer_repo="of/run",
        shape={"parameters": 1000, "hidden_size": 4, "vocab_size": 50, "dtype": "bfloat16"},
        tokens_per_step=1,
        schedule={},
        points=[{"revision": "a", "step": 1}, {"revision": "b", "step": 2}],
        lock={"revisions": {"a": {"repo": "of/run", "commit": "0", "files": FILES}}},
        remote_code=None,
        parent=None,
        before={"step": 0, "tokens": 0},
    )
    plan.recipes = {"rtn": {"library": "rtn", "bits": 4, "group_size": 8}}
    plan.recipes["gptq"] = {"library": "gptqmodel", "bits": 4, "group_size": 8}
    plan.losses = {Cell("run", step, method): [] for step in (1, 2) for method in ("none", "rtn", "gptq")}
    return plan


def measure(plan, seconds: float, *names: str) -> None:
    """Write a benchmark file."""
    path = Path(plan.config["folders"]["results"], "benchmarks", *names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.tsv").write_text(f"{HEADER}{seconds}\t0:00:00" + "\t1.0" * 8 + "\n")


# --- paces -----------------------------------------------------------------------------------------------------------


def test_start_and_rate_are_found():
    found = fit([(work, 5 + work / 20) for work in (10, 100, 1000, 4000)], DEFAULT)
    assert (found.start, found.rate) == pytest.approx((5, 20))


def test_terms_are_not_negative():
    found = fit([(work, work / 20 - 5) for work in (200, 1000, 4000)], DEFAULT)
    assert found.start == 0
    assert found.rate > 0


@pytest.mark.parametrize(
    "points",
    [
        [(1000, 40)],
        [(1000, 30), (1000, 50), (1000, 40)],  # the same work
        [(10, 20.2), (4000, 100)],  # too few
        [(1, 20), (10, 30), (90, 40)],  # little beside the start
        [(10, 40), (100, 30.2), (1000, 1)],  # more work took less
    ],
)
def test_what_tells_no_rate_scales_the_default(points):
    found = fit(points, DEFAULT)
    factor = sum(seconds for _, seconds in points) / sum(DEFAULT.seconds(work) for work, _ in points)
    assert (found.start, found.rate) == pytest.approx((10 * factor, 100 / factor))


def test_stages_without_work_keep_their_infinite_rate():
    assert fit([(0, 4), (0, 6)], Pace(1)) == Pace(5, math.inf)
    assert fit([(0, 4)], Pace(0)) == Pace(0)


def test_a_gpu_rounds_the_columns_of_gptq_one_after_another(smoke):
    names = {recipe["algorithm"]: name for name, recipe in smoke.recipes.items()}
    assert {"rtn", "gptq"} <= names.keys()
    cells = [("smoke", "step-40", names[name]) for name in ("gptq", "rtn")]
    works = Works(smoke)
    assert works.loading("quantize", cells[0]) == works.loading("quantize", cells[1])
    smoke.config["compute"]["device"] = "cuda"
    more = works.loading("quantize", cells[0]) - works.loading("quantize", cells[1])
    model = works.models["smoke"]
    assert more == pytest.approx(0.25e-3 * model.parameters / model.likely_width)


def test_defaults_know_threads_and_gpus():
    machines = [("auto", 1, "float32"), ("cpu", 4, "bfloat16"), ("cuda", 4, "bfloat16")]
    machines = [dict(zip(("device", "threads", "dtype"), machine, strict=True)) for machine in machines]
    one, four, gpu = map(forecast.default_paces, machines)
    assert four["train"].rate == 4 * one["train"].rate
    assert four["evaluate_loss"].rate == four["quantize"].rate
    assert gpu["quantize"].rate == gpu["train"].rate == requests.GPU_FLOPS["float32"]
    assert gpu["evaluate_tasks"].rate == requests.GPU_FLOPS["bfloat16"]
    assert forecast.default_paces(machines[2], "bfloat16")["train"].rate == requests.GPU_FLOPS["bfloat16"]
    assert one["fetch"] == four["fetch"] == gpu["fetch"]
    assert four["quantize"].start == gpu["quantize"].start == one["quantize"].start + forecast.ALONE


def test_a_stage_without_numbers_of_its_own_is_a_short_one(smoke):
    found = forecast_of(smoke)
    assert found.seconds([Job("another", (), 0.0, 0.0, None, False)]) == forecast.SHORT.start
    assert {"train", "quantize", "evaluate_loss", "report"} <= {job.stage for job in found.jobs} & set(
        forecast.DEFAULTS
    )


# --- benchmark files -------------------------------------------------------------------------------------------------


def test_benchmarks_of_this_plan_are_used(smoke):
    measure(smoke, 30, "train", "smoke", "from-0")
    measure(smoke, 12, "quantize", "smoke", "step-20", "rtn-w4-g32")
    measure(smoke, 1, "quantize", "smoke", "step-40", "rtn-w3-g32")
    measure(smoke, 9, "quantize", "another-run", "step-20", "rtn-w4-g32")
    measure(smoke, 9, "quantize", "smoke", "step-20", "another-method")
    measure(smoke, 9, "tokenizer", "another-tokenizer")
    measure(smoke, 9, "another_rule", "smoke")
    measure(smoke, 9, "train", "smoke-lawa", "from-0")  # an average now
    measure(smoke, 9, "average", "smoke", "step-20")  # a run now
    refused = Path(smoke.config["folders"]["results"], "quantized/smoke/step-40/rtn-w3-g32/manifest.json")
    refused.parent.mkdir(parents=True)
    refused.write_text(json.dumps({"status": "refused"}))
    found, peak = forecast.measured(smoke, Works(smoke))
    assert {stage: list(jobs) for stage, jobs in found.items()} == {
        "quantize": [("smoke", "step-20", "rtn-w4-g32")],
        "train": [("smoke", "from-0")],
    }
    assert found["train"]["smoke", "from-0"][1] == 30
    assert peak > 0


def test_prediction_against_outcome(smoke):
    for name, link in (("smoke", "from-0"), ("smoke", "from-20"), ("smoke-cooldown", "from-20")):
        measure(smoke, 26, "train", name, link)
    measure(smoke, 50, "evaluate_tasks", "smoke-cooldown", "step-40", "none", "smoke")
    found = forecast_of(smoke)
    links, tasks = ([job for job in found.jobs if job.stage == stage] for stage in ("train", "evaluate_tasks"))
    assert found.outcome(links) == pytest.approx(len(links) * 26) == found.seconds(links)
    assert found.outcome(tasks) is None  # one of two
    assert found.seconds(tasks) == pytest.approx(100, rel=0.01)
    assert found.seconds(tasks, found.defaults) < 100


# --- times -----------------------------------------------------------------------------------------------------------


def test_jobs_side_by_side(smoke):
    plots = [Job("plot", (str(number),), 0.0, 0.0, None, False) for number in range(10)]
    trunk = Job("train", ("run", "from-0"), 10.0, 0.0, "run", False)
    others = [Job("train", ("run", f"from-{number}"), 10.0, 0.0, "run", False, after=(10,)) for number in (1, 2)]
    paces = {"train": Pace(0, 1), "plot": Pace(2)}
    found = Forecast(smoke, [*plots, trunk, *others], paces, paces, {}, 4)
    assert found.wall(plots) == 10 * 2 / 4
    assert found.wall(plots[:1]) == 2
    assert found.wall([trunk, *others]) == 20  # both links of a run, or its first and a branch
    assert found.wall(found.jobs) == 20
    assert found.wall(others) == 10, "what is done takes no time"


def test_cpus_are_counted(smoke):
    smoke.config["compute"] |= {"threads": 4, "device": "cpu"}
    found = Forecast(smoke, [], forecast.DEFAULTS, {"train": Pace(3), "plot": Pace(2)}, {}, 1)
    jobs = [Job(stage, (), 0.0, 0.0, None, False) for stage in ("train", "plot")]
    assert (found.unit_seconds(jobs, "CPU"), found.unit_seconds(jobs, "GPU")) == (14, 0)
    smoke.config["compute"]["device"] = "cuda"
    assert (found.unit_seconds(jobs, "CPU"), found.unit_seconds(jobs, "GPU")) == (2, 3)


def test_work_of_training(smoke):
    parameters = smoke.trajectories["smoke"].model.parameters
    run = smoke.trajectories["smoke"]
    first, link = next(iter(run.links.items()))
    tokens = (link["end"] - link["start"]) * run.batch_size * run.window
    assert Works(smoke).of("train", ("smoke", first)) == 6 * parameters * tokens


def test_a_loss_is_one_model_and_the_baselines_head(smoke):
    works, model, tokens = Works(smoke), smoke.trajectories["smoke"].model, 64 * 64
    none, other = (
        works.of("evaluate_loss", ("smoke", "step-40", method, "smoke")) for method in ("none", "rtn-w3-g32")
    )
    assert none == 2 * model.parameters * tokens
    assert other - none == 2 * model.vocabulary * model.width * tokens


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_sizes_of_checkpoints(published, smoke):
    run, trunk, mean = published.trajectories["run"], smoke.trajectories["smoke"], smoke.trajectories["smoke-lawa"]
    assert run.checkpoint_bytes(1) == (4010, "lock")
    assert run.checkpoint_bytes(2) == (2000, "estimate")
    assert trunk.checkpoint_bytes(40) == (4 * trunk.model.parameters, "estimate")
    assert mean.checkpoint_bytes(40) == trunk.checkpoint_bytes(40)


def test_sizes_of_local_folders(tiny_model):
    own = Local("own", [{"path": str(tiny_model), "step": 3}])
    size = sum(path.stat().st_size for path in tiny_model.iterdir())
    assert own.checkpoint_bytes(3) == (size, "folder")


def test_sizes_of_quantized_models(published):
    model, recipes = published.trajectories["run"].model, published.recipes
    assert quantized_bytes(model, recipes["rtn"]) == 4 * 1000
    assert quantized_bytes(model, recipes["gptq"]) == 4 * 400 + 600  # two tables of 200; 4 bits and 32 for 8 weights
    assert quantized_bytes(model, recipes["gptq"] | {"group_size": -1}) == 4 * 400 + 300
    assert quantized_bytes(replace(model, tied=True), recipes["gptq"]) == 4 * 200 + 800


def test_downloads_and_disk(published):
    jobs = [Job("fetch", ("run", f"step-{step}"), 0.0, 0.0, "run", step == 1) for step in (1, 2)]
    row = forecast.sizes_by_trajectory(published, jobs)["run"]
    assert (row["checkpoints"], row["download"], row["download_left"], row["largest"]) == (2, 6010, 2000, 4010)
    assert row["sources"] == {"lock": 1, "estimate": 1}
    assert forecast.peak_disk(published, jobs, 1) == 6010 + 2 * (4000 + 2200)
    published.config["quantize"]["keep_weights"] = False
    assert forecast.peak_disk(published, jobs, 1) == 6010 + 4000
    published.config["fetch"] = {"keep_weights": False, "disk_budget": 11e-6}
    assert forecast.peak_disk(published, jobs, 1) == 4010 + 4000 + 2200  # one of them at once
    published.losses[Cell("run", 2, "rtn")] = ["text"]
    published.config["fetch"]["disk_budget"] = None
    assert forecast.peak_disk(published, jobs, 1) == 6010 + 4000 + 10 * 5 * 4 * 4, "the hidden states of the second"


def test_downloads_are_counted_a_few_at_a_time(published):
    jobs = [Job("fetch", ("run", f"step-{step}"), 0.0, 0.0, "run", False) for step in range(12)]
    made = Forecast(published, jobs, {}, {"fetch": Pace(7)}, {}, 100)
    assert made.wall(jobs) == 7 * 12 / forecast.DOWNLOADS
    for profile in ("local", "slurm"):
        content = yaml.safe_load(Path(f"workflow/profiles/{profile}/config.yaml").read_text())
        assert content["resources"][0] == f"downloads={forecast.DOWNLOADS}"
