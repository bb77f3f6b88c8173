"""Scales, and the studies that are written for several of them."""

import copy
from pathlib import Path

import pytest
from snakemake.utils import update_config

from scripts.lib.analysis import comparisons
from scripts.lib.analysis.identifiability import SETTLED
from scripts.lib.analysis.places import places
from scripts.lib.runtime.config_files import ConfigError, read_yaml
from scripts.lib.study.plan import load_plan, make_plan
from scripts.lib.study.scales import of_trajectory, scaled

STUDIES = {
    "decay-any-time": {"decay-raises": 15, "rate-not-tokens": 12, "tokens-raise": 12},
    "decay-length": {"long-decay-lowers": 15, "decay-raises": 18},
    "peak-rate": {"peak-lowers": 9, "higher-rate-flatter": 9},
    "weight-decay": {"weight-decay-lowers": 9},
    "cosine-vs-wsd": {"cosine-grows": 6, "rate-not-tokens": 12, "tokens-raise": 12, "undertrained-breaks": 12},
    "optimizer": {"muon-lowers": 3, "decay-raises": 6},
    "averaging": {
        "lawa-lowers": 9,
        "lawa-beats-cooldown": 9,
        "swa-reverses": 9,
        "ema-lowers": 3,
        "soup-lowers": 9,
    },
}
SCALES = sorted(path.stem for path in Path("config/scales").glob("*.yaml"))
SCALE = {"name": "large", "times": {"steps": 10, "peak": 0.5, "weight_decay": 0.2}, "run": {"window": 256}}
RUN = read_yaml("config/trajectories/trunk.yaml")


def scale_files(scale: str | None) -> list[str]:
    return [f"config/scales/{scale}.yaml"] if scale else []


@pytest.mark.parametrize("scale", [None, *SCALES])
@pytest.mark.parametrize("study", STUDIES)
def test_a_study_compares_three_seeds_at_every_scale(study, scale):
    plan = load_plan(study, *scale_files(scale))
    assert not plan.refused
    found = places(plan.circumstances(), plan.lineage())
    for name, number in STUDIES[study].items():
        selection = comparisons.select(plan.claims[name]["compare"], found)
        assert len(selection.pairs) == number
        assert {pair.row.replicate for pair in selection.pairs} == {"seed 1", "seed 2", "seed 3"}
        assert all(name.startswith("cosine-") for name, _ in selection.refused), "which have no cooldowns"
        assert not selection.absent
    assert list(plan.claims) == list(STUDIES[study])


@pytest.mark.parametrize("scale", [None, *SCALES])
@pytest.mark.parametrize("study", ["decay-any-time", "peak-rate", "weight-decay", "averaging", "optimizer"])
def test_weights_have_settled_where_they_are_measured(study, scale):
    plan = load_plan(study, *scale_files(scale))
    for place in places(plan.circumstances(), plan.lineage()):
        if place.trained:
            assert place.settling > SETTLED * (1 - 1e-9), place.point


@pytest.mark.parametrize("study", STUDIES)
def test_no_run_sees_its_text_twice_on_two_cores(study):
    plan = load_plan(study)
    assert max(row["tokens"] for row in plan.circumstances()) <= 9_020_000


def test_steps_rates_and_weight_decays_are_multiplied():
    found = of_trajectory(RUN, SCALE, Path("trunk.yaml"))
    assert found["keep"] == [10 * step for step in RUN["keep"]]
    assert found["restart"] == [10 * step for step in RUN["restart"]]
    assert found["schedule"] == {"name": "constant", "peak": 0.003, "warmup": 500}
    assert found["optimizer"] == RUN["optimizer"] | {"weight_decay": 0.1}
    assert found["window"] == 256
    assert {key: found[key] for key in ("axes", "model", "batch_size", "seed")} == {
        key: RUN[key] for key in ("axes", "model", "batch_size", "seed")
    }


def test_axes_branches_and_averages_are_multiplied():
    cooldown = of_trajectory(read_yaml("config/trajectories/trunk-cooldown.yaml"), SCALE, Path("c.yaml"))
    assert cooldown["branch"] == {"from": "trunk", "step": 11_000}
    assert "window" not in cooldown
    assert cooldown["axes"]["from"]["91"] == {
        "branch.step": 40_000,
        "schedule.decay.start": 40_000,
        "schedule.decay.end": 44_000,
        "keep": [44_000],
    }
    peaks = of_trajectory(read_yaml("config/trajectories/peaks.yaml"), SCALE, Path("p.yaml"))
    assert peaks["axes"] == {"schedule.peak": [0.00075, 0.0015, 0.006], "seed": [1, 2, 3]}
    average = of_trajectory(read_yaml("config/trajectories/trunk-lawa.yaml"), SCALE, Path("a.yaml"))
    assert (average["window"], average["stride"], average["keep"]) == (5, 500, [26_000, 44_000])


def test_runs_that_are_not_trained_here_stay_as_they_are():
    published = read_yaml("config/trajectories/pythia-160m.yaml")
    assert of_trajectory(published, SCALE, Path("p.yaml")) == published
    assert of_trajectory(RUN, None, Path("t.yaml")) is RUN


def test_a_piecewise_schedule_is_refused():
    schedule = {"name": "piecewise", "segments": [{"until": 10, "shape": "constant", "from": 0.1}]}
    with pytest.raises(ConfigError, match=r"^t.yaml: schedule: `piecewise` has no scales"):
        of_trajectory(RUN | {"schedule": schedule}, SCALE, Path("t.yaml"))


def test_a_family_of_models_has_one_size():
    sizes = read_yaml("config/trajectories/sizes.yaml")
    with pytest.raises(ConfigError, match="members differ in `model`, which the scale `large` replaces"):
        of_trajectory(sizes, SCALE | {"run": {"model": RUN["model"]}}, Path("sizes.yaml"))
    assert of_trajectory(sizes, SCALE, Path("sizes.yaml"))["window"] == 256


def test_what_a_scale_makes_of_a_run_has_to_fit():
    with pytest.raises(ConfigError, match=r"^t.yaml, at scale `large`: `window`: 1 is less than"):
        of_trajectory(RUN, SCALE | {"run": {"window": 1}}, Path("t.yaml"))


def config(study: str = "decay-any-time", **changes) -> dict:
    content = read_yaml("config/default.yaml")
    update_config(content, read_yaml(f"config/studies/{study}.yaml"))
    return content | changes


def test_a_study_has_its_steps_names_and_folders():
    given = config(scale=SCALE | {"instead": {"docstrings": "refinedweb", "rtn-w2-g32": "rtn-w3-g32"}})
    before = copy.deepcopy(given)
    found = scaled(given)
    assert given == before
    assert found["folders"] == {"resources": "resources/large", "results": "results/large"}
    cells = found["study"]["cells"]
    assert cells[0]["checkpoints"] == [15_000, 20_000, 26_000, 37_000, 44_000]
    assert cells[1]["checkpoints"] == "last"
    assert cells[0]["loss"] == ["refinedweb"]
    assert cells[0]["methods"] == ["rtn-w3-g32", "gptq-w3-g32", "gptq-w2-g32"]
    assert found["study"]["replicates"]["neighbours"][0]["checkpoints"] == [43_000, 43_500, 44_000]
    make_plan(found)


def test_without_a_scale_nothing_changes():
    given = config()
    assert scaled(given) is given


def test_a_scale_is_checked():
    with pytest.raises(ConfigError, match=r"^scale: `times.steps`: 0.5 is not of type 'integer'"):
        scaled(config(scale={"name": "small", "times": {"steps": 0.5}}))
