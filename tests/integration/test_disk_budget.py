"""Published checkpoints under a disk budget: what lies on disk stays below it, and a changed budget fetches nothing."""

import contextlib
import os
import shutil
import threading

import pytest
import yaml

from tests.hub.server import Hub
from tests.integration.test_hub import prepare, run, study
from tests.tools import command, copy_tree, edit, measurements, planned

pytestmark = pytest.mark.full

STEPS = [10, 20, 30, 40, 50]


class Watch(threading.Thread):
    """The largest size of a tree's weights, fetched, in part too, and quantized, and of its hidden states; looked at 50
    times a second.
    """

    def __init__(self, tree):
        super().__init__(daemon=True)
        self.tree, self.peak, self.done = tree, 0, threading.Event()

    def run(self):
        while not self.done.wait(0.02):
            self.peak = max(self.peak, sum(self.sizes().values()))

    def sizes(self):
        """Bytes of each file, by its inode: a link to what was fetched takes no space."""
        found = {}
        for folder in ("resources/checkpoints", "resources/state/fetch", "results/quantized", "results/hidden"):
            for place, _, names in os.walk(self.tree / folder):  # which passes over what is deleted meanwhile
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        status = os.stat(f"{place}/{name}")
                        if name.endswith((".safetensors", ".part")):
                            found[status.st_ino] = status.st_size
        return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory, finished):
    """A tree in which five checkpoints were measured under a budget for two, and its watch."""
    folder = tmp_path_factory.mktemp("budget")
    tree = copy_tree(folder / "tree")
    shutil.copytree(finished / "resources/corpora", tree / "resources/corpora")
    with Hub(folder / "hub") as hub:
        prepare(tree, hub, folder, ["llama"], finished / "resources/tokenizers/smoke/tokenizer", STEPS)
        content = study(["llama"], ["rtn-w3-g32", "nf4"])
        content["study"]["cells"][0] |= {"checkpoints": "all"}
        content |= {"fetch": {"keep_weights": False, "disk_budget": 0.006}}
        content["quantize"] = content.get("quantize", {}) | {"keep_weights": False}
        (tree / "config/studies/hub.yaml").write_text(yaml.safe_dump(content))
        run(tree, hub, *command("hub", "--dry-run"))
        watch = Watch(tree)
        watch.start()
        run(tree, hub, *command("hub"))
        watch.done.set()
        watch.join()
    return tree, watch


def test_the_peak_stays_below_the_budget_and_all_is_measured(measured):
    tree, watch = measured
    assert 0.0005e9 < watch.peak <= 0.006e9
    assert watch.sizes() == {}, "all weights are deleted once they are measured"
    assert measurements(tree, "hub").filter(metric="cross_entropy").height == 3 * len(STEPS)


def test_another_budget_fetches_nothing_again(measured):
    tree, _ = measured
    assert planned(tree, "hub") == {}
    edit(tree / "config/studies/hub.yaml", lambda content: content["fetch"].update(disk_budget=0.009))
    assert set(planned(tree, "hub")) == {"make_room"}
    edit(tree / "config/studies/hub.yaml", lambda content: content["fetch"].update(disk_budget=None))
    assert set(planned(tree, "hub")) == {"make_room"}


def test_some_checkpoints_of_a_lane_are_fetched_again_in_their_order(measured):
    tree, _ = measured
    edit(tree / "config/studies/hub.yaml", lambda content: content["fetch"].update(disk_budget=0.006))
    before = (tree / "config/studies/hub.yaml").read_text()
    block = yaml.safe_load(before)["study"]["cells"][0] | {"checkpoints": [10, 50], "loss": ["docstrings"]}
    edit(tree / "config/studies/hub.yaml", lambda content: content["study"]["cells"].append(block))
    jobs = planned(tree, "hub")
    (tree / "config/studies/hub.yaml").write_text(before)
    assert jobs["fetch"] == 2
    assert jobs["evaluate_loss"] == 2 * 2 * 3, "both losses of both, for what is fetched again is quantized again"
    assert jobs["measured"] == 3, "of a lane the marks between these two as well: their hidden states come last now"


def test_a_new_method_fetches_again_in_the_same_order(measured):
    tree, _ = measured
    edit(tree / "config/studies/hub.yaml", lambda content: content["fetch"].update(disk_budget=0.006))
    edit(tree / "config/studies/hub.yaml", lambda content: content["study"]["cells"][0]["methods"].append("rtn-w4-g32"))
    jobs = planned(tree, "hub")
    assert jobs["fetch"] == len(STEPS)
    assert jobs["measured"] == len(STEPS) - 1, "with a third method one checkpoint fits"
    assert jobs["quantize"] == 3 * len(STEPS), "the price: what is fetched again is quantized again, by all methods"
