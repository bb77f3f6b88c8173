"""disk: what published checkpoints take, and which one waits for which under a budget."""

import pytest

from scripts.lib.cluster import disk
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.plan import load_plan
from scripts.lib.study.trajectories.averaged import Averaged


@pytest.fixture
def plan():
    """OLMo-2 1B's own study: 50 checkpoints of 1.48 billion weights, estimated at 4 bytes each, and four methods."""
    return load_plan("olmo2-1b")


def test_a_footprint_holds_the_checkpoint_and_all_that_is_quantized_from_it(plan):
    sizes = disk.footprints(plan)
    assert len(sizes) == 50
    source = dense = 4 * 1.48e9
    packed = set(sizes.values()).pop() - source - dense - set(disk.hidden_states(plan).values()).pop()
    assert 3 * 3 / 8 * 1.48e9 < packed < 3 * dense


def test_hidden_states_count_once_a_checkpoint_and_corpus(plan):
    """Of width 2048."""
    plan.config["evaluate_loss"] |= {"windows": 1000, "window": 100}
    plan.config["compute"]["dtype"] = "bfloat16"
    point, corpora = plan.checkpoints[0], set().union(*plan.losses.values())
    assert disk.hidden_states(plan)[point] == len(corpora) * 100_000 * 2048 * 2
    plan.recipes.clear()
    assert disk.hidden_states(plan) == {}


def test_pickled_weights_are_held_twice_while_they_are_converted(plan):
    lock = {"commit": "0", "files": {"pytorch_model.bin": {"bytes": 90 * disk.GB}, "config.json": {"bytes": 10}}}
    point = plan.checkpoints[0]
    revision = plan.trajectories[point[0]].published(point[1])["name"]
    plan.trajectories[point[0]].lock["revisions"][revision] = lock
    assert disk.footprints(plan)[point] == 2 * (90 * disk.GB + 10)


def test_each_waits_for_the_one_that_has_to_make_room(plan):
    points, size = plan.checkpoints, max(disk.footprints(plan).values())
    plan.config["fetch"]["disk_budget"] = 3.5 * size / disk.GB
    found = disk.waits_for(plan)
    assert points[0] not in found
    assert [found[point] for point in points[3:]] == points[:-3]
    plan.config["fetch"]["disk_budget"] = None
    assert disk.waits_for(plan) == {}


def test_small_checkpoints_do_not_wait_for_places_of_large_ones():
    sizes = {("large", step): 40 * disk.GB for step in range(4)} | {("small", step): disk.GB for step in range(60)}
    found = disk.lanes(sizes, 85)
    assert sorted(point for lane in found for point in lane) == sorted(sizes)
    widths = [max(sizes[point] for point in lane) for lane in found]
    assert sorted(widths) == [disk.GB] * 5 + [40 * disk.GB] * 2
    assert sum(widths) <= 85 * disk.GB
    assert [sizes[lane[0]] for lane in found] == widths, "the largest comes first"
    assert {len([point for point in lane if point[0] == "large"]) for lane in found} == {0, 2}


def test_a_budget_for_less_than_one_checkpoint_is_refused(plan):
    plan.config["fetch"]["disk_budget"] = 1
    with pytest.raises(ConfigError, match=r"disk_budget: 1 GB is less than olmo2-1b.* takes .* [\d.]+ GB; raise it"):
        disk.waits_for(plan)


@pytest.mark.parametrize("section", ["fetch", "quantize"])
def test_a_budget_needs_weights_to_be_deleted(plan, section):
    plan.config[section]["keep_weights"] = True
    with pytest.raises(ConfigError, match=f"disk_budget needs {section}.keep_weights: false"):
        disk.waits_for(plan)


def test_an_average_of_published_checkpoints_is_refused(plan):
    plan.trajectories["mean"] = Averaged(
        "mean", [plan.trajectories["olmo2-1b"]], {"average": "lawa", "window": 2}, keep=[]
    )
    with pytest.raises(ConfigError, match="`mean` averages checkpoints of `olmo2-1b`"):
        disk.waits_for(plan)
