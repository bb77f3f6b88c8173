"""Comparisons: which pairs a claim makes of checkpoints, and what it refuses because something else moves along."""

import dataclasses

import numpy as np
import pytest

from scripts.lib.analysis.comparisons import Selection, in_full, in_short, select
from scripts.lib.analysis.identifiability import variance_inflation, varied
from scripts.lib.analysis.places import Place, places
from scripts.lib.runtime.config_files import read_yaml
from scripts.lib.study.lineage import falling
from scripts.lib.study.plan import load_plan

PEAK = {"what": "axis", "axis": "schedule.peak", "at": "decay_end", "equal": "tokens", "distance": 0.01}
DECAY = {"what": "decay", "distance": 0.02}


def place(name: str, step: int, phase: str = "stable", parent: str | None = None, **more) -> Place:
    """A checkpoint of a run trained here, settled from step 1000 on."""
    peak = more.pop("peak", 6e-3)
    decay = more.pop("weight_decay", 0.5)
    start = more.pop("start", None)
    kind = "average" if phase == "average" else "branch" if parent else "trunk"
    settings = {"schedule.peak": peak, "optimizer.weight_decay": decay, "seed": more.get("seed", 1)}
    if start is not None:
        settings |= {"schedule.decay.start": start, "schedule.decay.end": step}
    base = {
        **{"trajectory": name, "checkpoint": f"step-{step}", "step": step, "tokens": 1000 * step, "phase": phase},
        **{"learning_rate": 0.0 if phase == "decay" else peak, "root": parent or name, "kind": kind},
        **{"parent": parent, "parent_step": start, "seed": 1, "stage": None, "soup_of": (), "weight_decay": decay},
        **{"decay_start": start, "decay_end": None if start is None else step},
        **{"decay_rate": None if start is None else peak, "batch_changes": (), "settings": settings},
    }
    return Place(**{**base, **more})


def run(seed: int = 1, ends=(1400, 2400), **more) -> list[Place]:
    """A trunk and its cooldowns of 200 steps."""
    name = more.pop("name", f"run-{seed}")
    trunk = [place(name, end, seed=seed, **more) for end in ends]
    return trunk + [
        place(f"{name}-cooldown-{end}", end, "decay", name, seed=seed, start=end - 200, **more) for end in ends
    ]


def names(selection: Selection) -> list[tuple[str, str]]:
    return [(pair.row.trajectory, pair.reference.trajectory) for pair in selection.pairs]


def reasons(selection: Selection) -> str:
    return " ".join(reason for _, reason in selection.refused + selection.absent)


# --- decays ----------------------------------------------------------------------------------------------------------


def test_a_decay_is_compared_with_its_stable_trunk_at_the_same_step():
    found = select(DECAY, run())
    assert names(found) == [("run-1-cooldown-1400", "run-1"), ("run-1-cooldown-2400", "run-1")]
    assert [(pair.row.step, pair.reference.step) for pair in found.pairs] == [(1400, 1400), (2400, 2400)]
    assert not found.refused


def test_a_step_that_is_too_far_away_is_no_reference():
    far = [point for point in run() if point.checkpoint != "step-2400" or point.kind != "trunk"]
    found = select(DECAY, far)
    assert names(found) == [("run-1-cooldown-1400", "run-1")]
    assert found.absent == [("run-1-cooldown-2400", "`run-1` has no stable checkpoint within 2 % of step 2400")]
    near = [*far, place("run-1", 2360)]
    assert len(select(DECAY, near).pairs) == 2
    assert len(select(DECAY | {"distance": 0.01}, near).pairs) == 1


def test_a_branch_that_changes_more_than_the_decay_is_refused():
    other = dataclasses.replace(
        run()[-1], settings=run()[-1].settings | {"optimizer.weight_decay": 0.1, "corpus": "other"}
    )
    found = select(DECAY, [*run()[:-1], other])
    assert found.refused == [("run-1-cooldown-2400", "against `run-1` corpus and optimizer.weight_decay differs too")]


def test_a_decay_that_has_not_ended_is_no_end_of_a_decay():
    part = dataclasses.replace(run()[-1], decay_end=2600)
    found = select(DECAY, [*run()[:-1], part])
    assert "step 2400, is not at the end of its decay" in reasons(found)


def test_a_single_run_is_refused():
    alone = [place("alone", 1000), place("alone", 2000, "decay", start=1500)]
    found = select(DECAY, alone)
    assert not found.pairs
    assert "in a single run the rate falls while tokens grow" in reasons(found)


def test_a_trunk_that_decays_itself_is_no_reference():
    trunk = [place("run-1", 2400, "decay", start=100)]
    found = select(DECAY, [*trunk, run()[-1]])
    assert "run-1-cooldown-2400" not in [pair.row.trajectory for pair in found.pairs]


# --- averages, soups, stages, methods --------------------------------------------------------------------------------


def test_averages_are_compared_with_their_run_or_its_cooldown_at_the_same_step():
    average = place("run-1-lawa", 2400, "average", "run-1")
    for against, other in (("run", "run-1"), ("cooldown", "run-1-cooldown-2400")):
        found = select({"what": "average", "against": against, "distance": 0.01}, [average, *run()])
        assert names(found) == [("run-1-lawa", other)]
    early = place("run-1-lawa", 2000, "average", "run-1")
    found = select({"what": "average", "against": "cooldown", "distance": 0.01}, [early, *run()])
    assert found.absent == [("run-1-lawa", "no cooldown of `run-1` ends within 1 % of step 2000")]


def test_an_average_is_compared_with_itself_unquantized():
    average = place("run-1-lawa", 2400, "average", "run-1")
    found = select({"what": "average", "against": "unquantized", "distance": 0}, [average, *run()])
    assert names(found) == [("run-1-lawa", "run-1-lawa")]


def test_averages_of_one_kind_alone_are_compared():
    places = run()
    for scheme in ("lawa", "ema"):
        average = place(f"run-1-{scheme}", 2400, "average", "run-1")
        average.settings["average.scheme"] = scheme
        places.append(average)
    compare = {"what": "average", "against": "run", "distance": 0.01}
    assert names(select(compare | {"scheme": "ema"}, places)) == [("run-1-ema", "run-1")]
    assert names(select(compare, places)) == [("run-1-lawa", "run-1"), ("run-1-ema", "run-1")]
    assert reasons(select(compare | {"scheme": "greedy"}, places)) == "it has no average `greedy`"


def test_a_cooldown_that_changes_more_than_the_decay_is_none_of_an_average():
    average = place("run-1-lawa", 2400, "average", "run-1")
    other = [dataclasses.replace(point, settings=point.settings | {"optimizer.beta1": 0.8}) for point in run()]
    assert not select({"what": "average", "against": "cooldown", "distance": 0.01}, [average, *other]).pairs


def test_a_cooldown_of_another_run_is_none_of_an_average():
    average = place("run-1-lawa", 2400, "average", "run-1")
    found = select({"what": "average", "against": "cooldown", "distance": 0.01}, [average, *run(2)])
    assert not found.pairs


def test_a_soup_is_compared_with_each_ingredient():
    ends = run()[2:]
    soup = place("soup", 2400, "decay", "run-1", kind="soup", soup_of=(*(end.trajectory for end in ends), "unknown"))
    found = select({"what": "soup"}, [*ends, soup])
    assert names(found) == [("soup", end.trajectory) for end in ends]
    assert found.absent == [("soup", "its ingredient `unknown` is not in the study")]


def test_a_stage_is_compared_with_where_it_began():
    after = place("sft", 2500, "stable", "run-1", kind="stage", stage="sft", parent_step=2400)
    found = select({"what": "stage", "stage": "sft"}, [*run(), after])
    assert names(found) == [("sft", "run-1")]
    assert found.pairs[0].reference.step == 2400
    late = [*run(), dataclasses.replace(after, parent_step=3000)]
    lacks = select({"what": "stage", "stage": "sft"}, late)
    assert lacks.absent == [("sft", "the checkpoint of `run-1` that it began with is not in the study")]
    assert not select({"what": "stage", "stage": "preference"}, [*run(), after]).pairs


def test_methods_are_compared_on_every_checkpoint():
    found = select({"what": "method", "than": {"algorithm": "rtn"}}, run())
    assert all(pair.row == pair.reference for pair in found.pairs)
    assert len(found.pairs) == 4


# --- along an axis ---------------------------------------------------------------------------------------------------


def test_peaks_are_compared_at_equal_tokens_with_the_lowest_one():
    points = [
        point
        for seed in (1, 2)
        for peak in (3e-3, 6e-3, 12e-3)
        for point in run(seed, peak=peak, name=f"{peak}-{seed}")
    ]
    found = select(PEAK, points)
    assert len(found.pairs) == 2 * 2 * 2  # two seeds, two higher peaks, two ends
    for pair in found.pairs:
        assert pair.reference_x == 3e-3
        assert pair.row.seed == pair.reference.seed
        assert pair.row.tokens == pair.reference.tokens
        assert pair.row.phase == pair.reference.phase == "decay"


def test_what_moves_along_with_the_axis_is_told():
    points = run(peak=3e-3, weight_decay=0.5, name="a") + run(peak=6e-3, weight_decay=0.25, name="b")
    found = select(PEAK, points)
    assert not found.pairs
    nearest = "a-cooldown-1400 and b-cooldown-1400, the nearest, differ in optimizer.weight_decay too"
    assert reasons(found) == f"schedule.peak never differs alone: {nearest}"


def test_an_axis_that_nothing_varies_lacks_a_comparison():
    found = select(PEAK, run())
    assert found.absent == [("the study", "no two of its runs differ in schedule.peak")]
    assert not found.refused


def test_a_study_of_which_nothing_is_measured_does_not_speak_of_its_runs():
    assert select(PEAK, []).absent == [("the study", "fewer than two runs have what it compares")]


def test_runs_without_the_end_of_a_decay_lack_one():
    trunks = [place("a", 2400, weight_decay=0.1), place("b", 2400, weight_decay=0.5)]
    found = select(PEAK | {"axis": "optimizer.weight_decay"}, trunks)
    reason = "a and b differ in optimizer.weight_decay, but not both have such a checkpoint"
    assert (found.refused, found.absent) == ([], [("the study", reason)])
    one = [*trunks, place("b-cooldown", 2400, "decay", "b", start=2200, weight_decay=0.5)]
    assert select(PEAK | {"axis": "optimizer.weight_decay"}, one).absent == [("the study", reason)]


def test_a_doubling_of_nothing_is_no_comparison():
    compare = PEAK | {"axis": "optimizer.weight_decay", "per": "doubling"}
    found = select(compare, run(weight_decay=0.0, name="a") + run(weight_decay=0.5, name="b"))
    assert not found.pairs
    assert "0 of optimizer.weight_decay cannot be doubled" in reasons(found)


def test_equal_loss_needs_losses_and_takes_the_nearest():
    compare = PEAK | {"at": "stable", "equal": "baseline"}
    points = run(peak=6e-3, name="low") + run(peak=12e-3, name="high")
    assert len(select(compare, points).pairs) == 4  # all that may turn out to be equal
    losses = {
        ("low", "step-1400"): 3.2,
        ("low", "step-2400"): 3.0,
        ("high", "step-1400"): 3.01,
        ("high", "step-2400"): 2.5,
    }
    (pair,) = select(compare, points, losses).pairs
    assert (pair.row.point, pair.reference.point) == (("high", "step-1400"), ("low", "step-2400"))


def test_the_length_of_decays_is_an_axis():
    short, long = (
        place(f"run-1-{start}", 2400, "decay", "run-1", start=start, settings={"seed": 1}) for start in (2200, 1400)
    )
    compare = PEAK | {"axis": "decay_length"}
    (pair,) = select(compare, [short, long]).pairs
    assert (pair.row, pair.x, pair.reference, pair.reference_x) == (long, 1000, short, 200)


def test_where_nothing_is_equal_tokens_move_along():
    compare = {"what": "axis", "axis": "schedule.end", "at": "decay_end", "equal": "nothing", "per": "doubling"}
    ends = [
        place(f"{end}-{seed}", end, "decay", start=50, seed=seed, settings={"schedule.end": end, "seed": seed})
        for seed in (1, 2)
        for end in (1000, 2000, 4000)
    ]
    found = select(compare, ends)
    assert names(found) == [(f"{end}-{seed}", f"1000-{seed}") for seed in (1, 2) for end in (2000, 4000)]
    assert [(pair.x, pair.reference_x) for pair in found.pairs[:2]] == [(2000, 1000), (4000, 1000)]


def test_a_setting_is_compared_with_what_goes_with_it():
    compare = {"what": "setting", "setting": "optimizer.name", "value": "muon", "than": "adamw", "distance": 0.01}

    def ends(name: str, **settings) -> list[Place]:
        return [
            dataclasses.replace(point, settings=point.settings | {"optimizer.name": name} | settings)
            for point in run(name=name)
        ]

    adamw, muon = ends("adamw"), ends("muon", **{"optimizer.momentum": 0.95})
    assert names(select(compare, adamw + muon)) == [
        (f"muon-cooldown-{step}", f"adamw-cooldown-{step}") for step in (1400, 2400)
    ]
    other = ends("muon", **{"optimizer.momentum": 0.95, "optimizer.beta1": 0.8})
    mine = [dataclasses.replace(point, settings=point.settings | {"optimizer.beta1": 0.9}) for point in adamw]
    assert reasons(select(compare, mine + other)) == " ".join(
        f"no decay with adamw for optimizer.name, all else equal, ends within 1 % of step {step}"
        for step in (1400, 2400)
    )
    assert reasons(select(compare, adamw)) == "it has no decay that ends with muon for optimizer.name"


def test_tokens_need_equally_long_cooldowns_of_one_settled_trunk():
    compare = {"what": "axis", "axis": "tokens", "at": "decay_end"}
    found = select(compare, run() + run(2))
    assert names(found) == [(f"run-{seed}-cooldown-2400", f"run-{seed}-cooldown-1400") for seed in (1, 2)]
    longer = place("run-1-longer", 2400, "decay", "run-1", start=1400)
    assert names(select(compare, [*run()[:3], longer])) == []
    slow = select(compare, run(weight_decay=0.1))
    assert "rate x weight decay x steps is 1.3 at most, below 3" in reasons(slow)
    none = select(compare, run(weight_decay=0.0))
    assert not none.pairs
    assert len(none.refused) == 2


def test_tokens_of_a_stable_phase_are_those_of_one_run_at_one_rate():
    compare = {"what": "axis", "axis": "tokens", "at": "stable"}
    points = [place("run-1", step) for step in (500, 1000, 1400, 2400)]
    found = select(compare, points)
    assert [(pair.row.step, pair.reference.step) for pair in found.pairs] == [(1400, 1000), (2400, 1000)]
    assert found.refused == [("run-1", "1 checkpoint not settled: rate x weight decay x steps is 1.5 at most, below 3")]
    doubled = [dataclasses.replace(point, batch_changes=(1000,)) for point in points]
    assert [(pair.row.step, pair.reference.step) for pair in select(compare, doubled).pairs] == [(2400, 1400)]
    unknown = [dataclasses.replace(point, weight_decay=None) for point in points]
    assert "not known, for the weight decay is not" in reasons(select(compare, unknown))
    cosine = [place("cosine", step, "decay", start=100) for step in (1000, 2000)]
    assert "along it tokens and rate move together" in reasons(select(compare, cosine))


# --- in words --------------------------------------------------------------------------------------------------------


def test_a_selection_in_words():
    found = select(
        DECAY, [*run(), place("alone", 2000, "decay", start=1500), place("b", 900, "decay", "run-1", start=700)]
    )
    assert in_short("decay-raises", found) == (
        "claim `decay-raises`: 2 comparisons in seed 1, too few runs for a verdict; 1 refused as not identifiable; "
        "1 without a reference"
    )
    assert in_full("decay-raises", found)[1:] == [
        "  compares run-1-cooldown-1400 step 1400 with run-1 step 1400",
        "  compares run-1-cooldown-2400 step 2400 with run-1 step 2400",
        "  refuses alone: in a single run the rate falls while tokens grow; it has no trunk beside",
        "  lacks b: `run-1` has no stable checkpoint within 2 % of step 900",
    ]


# --- what a study varies ---------------------------------------------------------------------------------------------


def test_variance_inflation():
    one, two = np.array([0, 0, 1, 1.0]), np.array([0, 1, 0, 1.0])
    assert variance_inflation({"a": one, "b": two}) == {"a": pytest.approx(1), "b": pytest.approx(1)}
    assert variance_inflation({"a": one, "b": 2 * one + 1}) == {"a": np.inf, "b": np.inf}
    assert variance_inflation({"a": one}) == {"a": pytest.approx(1)}
    half = variance_inflation({"a": one, "b": one + two})  # correlation of a half, squared
    assert half["a"] == pytest.approx(2)
    assert variance_inflation({}) == {}


def test_what_always_moves_together_has_no_finite_inflation():
    together = run(peak=3e-3, weight_decay=0.5, name="a") + run(peak=6e-3, weight_decay=1.0, name="b")
    factors = varied(together)
    assert factors["schedule.peak"] == factors["optimizer.weight_decay"] == np.inf
    assert factors["tokens"] < 10
    assert varied([dataclasses.replace(point, seed=None) for point in together]) == {}


def test_lineage_says_when_a_rate_falls_last():
    assert falling({"name": "constant", "peak": 1, "warmup": 0}) == (None, None)
    assert falling({"name": "wsd", "peak": 1, "warmup": 5, "decay": {"start": 20, "end": 40, "shape": "linear"}}) == (
        20,
        40,
    )
    assert falling({"name": "cosine", "peak": 1, "warmup": 5, "end": 40}) == (5, 40)
    apertus = read_yaml("config/trajectories/apertus-8b.yaml")["schedule"]
    assert falling(apertus) == (2429920, 2627139)


def test_the_lineage_of_a_study():
    plan = load_plan("demo")
    rows = {row["trajectory"]: row for row in plan.lineage()}
    cooldown = rows["demo-cooldown-seed1-from-2200"]
    assert (cooldown["kind"], cooldown["parent"], cooldown["parent_step"]) == ("branch", "demo-seed1", 2200)
    assert (cooldown["decay_start"], cooldown["decay_end"], cooldown["decay_rate"]) == (2200, 2400, 0.006)
    assert cooldown["settings"]["schedule.decay.shape"] == "linear"
    assert (rows["demo-lawa-seed1"]["kind"], rows["demo-lawa-seed1"]["root"]) == ("average", "demo-seed1")
    found = places(plan.circumstances(), plan.lineage())
    assert {point.replicate for point in found} == {"seed 1", "seed 2", "seed 3"}


def test_ingredients_and_stages_of_published_runs_exist():
    plan = load_plan("paper")
    for row in plan.lineage():
        assert set(row["soup_of"]) <= plan.trajectories.keys()
    assert {row["stage"] for row in plan.lineage()} == {None, "mid-training", "long-context", "sft", "preference"}
