"""Families: members by their names, branches and averages over the same axes, coordinates, and mistakes."""

import re
import shutil

import pytest
import yaml
from snakemake.utils import update_config

from scripts.lib.analysis.comparisons import select
from scripts.lib.analysis.places import places
from scripts.lib.analysis.tables import runs_table
from scripts.lib.cluster import requests
from scripts.lib.runtime.config_files import ConfigError, read_yaml
from scripts.lib.study.coordinates import runs
from scripts.lib.study.needs import checkpoints_needed, tokens_drawn
from scripts.lib.study.plan import make_plan

AXES = {"seed": [1, 2], "optimizer.weight_decay": [0, 0.5]}
TRUNK = read_yaml("config/trajectories/smoke.yaml")
COOLDOWN = {
    "source": "train",
    "branch": {"from": "small", "step": 20},
    "schedule": {"name": "wsd", "decay": {"start": 20, "end": 40, "shape": "linear"}},
    "keep": [40],
}
LAWA = {"source": "average", "of": "small", "average": "lawa", "window": 2, "stride": 10, "keep": [40]}
MEMBERS = [f"seed{seed}-weight_decay{decay}" for seed in (1, 2) for decay in ("0", "0.5")]


class Folder:
    """A copy of config/, into which trajectories can be written."""

    def __init__(self, root):
        self.path = root / "config"
        shutil.copytree("config", self.path)

    def write(self, name: str, content: dict, **changes) -> None:
        (self.path / "trajectories" / f"{name}.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))

    def plan(self, *trajectories: str):
        config = read_yaml("config/default.yaml")
        update_config(config, read_yaml("config/studies/smoke.yaml"))
        block = {"trajectories": list(trajectories), "methods": ["rtn-w3-g32"], "loss": ["smoke"]}
        config["study"] = {"name": "made-up", "title": "made up", "cells": [block]}
        return make_plan(config, self.path)


@pytest.fixture
def folder(tmp_path):
    made = Folder(tmp_path)
    made.write("small", TRUNK, axes=AXES)
    made.write("small-cooldown", COOLDOWN)
    made.write("small-lawa", LAWA)
    return made


def test_members_differ_in_what_the_axes_vary_and_in_nothing_else(folder):
    folder.write("plain", TRUNK)
    plan = folder.plan("small", "plain")
    assert [name for name in plan.trajectories if name != "plain"] == [f"small-{member}" for member in MEMBERS]
    for name, seed, decay in zip(plan.trajectories, (1, 1, 2, 2), (0, 0.5, 0, 0.5), strict=False):
        run = plan.trajectories[name]
        assert (run.seed, run.optimizer["weight_decay"]) == (seed, decay)
        same = {"optimizer": run.optimizer | {"weight_decay": TRUNK["optimizer"]["weight_decay"]}, "seed": 1}
        assert run.shaping | same == plan.trajectories["plain"].shaping


def test_a_branch_and_an_average_of_a_family_are_families(folder):
    plan = folder.plan("small-cooldown", "small-lawa")
    for member in MEMBERS:
        trunk = plan.trajectories[f"small-{member}"]
        branch, average = (plan.trajectories[f"small-{kind}-{member}"] for kind in ("cooldown", "lawa"))
        assert branch.parent is average.of is trunk
        assert (branch.seed, branch.optimizer, branch.shape) == (trunk.seed, trunk.optimizer, trunk.shape)
        assert {key: branch.schedule[key] for key in ("peak", "warmup")} == {"peak": 0.01, "warmup": 5}
    assert {name for name, _ in plan.checkpoints} == {
        f"small-{kind}-{member}" for kind in ("cooldown", "lawa") for member in MEMBERS
    }


def test_one_member_can_be_named(folder):
    plan = folder.plan("small-cooldown-seed2-weight_decay0.5")
    assert list(plan.trajectories) == ["small-seed2-weight_decay0.5", "small-cooldown-seed2-weight_decay0.5"]


def test_a_branch_of_one_member_is_no_family(folder):
    folder.write("late", COOLDOWN, branch={"from": "small-seed2-weight_decay0.5", "step": 20})
    plan = folder.plan("late")
    assert (plan.trajectories["late"].seed, plan.families["late"].name) == (2, "late")


def test_a_family_may_be_named_beside_its_members(folder):
    assert folder.plan("small", "small-seed2-weight_decay0").cells == folder.plan("small").cells


def test_own_axes_with_named_values_vary_several_settings(folder):
    folder.write("small", TRUNK, axes={"seed": [1, 2]}, restart=[20, 30])
    axes = {
        "decay": {
            "short": {"branch.step": 30, "schedule.decay.start": 30},
            "long": {"branch.step": 20, "schedule.decay.start": 20, "keep": [30, 40]},
        }
    }
    folder.write("small-cooldown", COOLDOWN, axes=axes)
    folder.write("small-cooldown-lawa", LAWA, of="small-cooldown", axes={"keep": {"end": {"keep": [40]}}}, stride=10)
    plan = folder.plan("small-cooldown")
    names = [f"small-cooldown-seed{seed}-decay-{decay}" for seed in (1, 2) for decay in ("short", "long")]
    assert [name for name in plan.trajectories if "cooldown" in name] == names
    assert [plan.trajectories[name].start for name in names] == [30, 20, 30, 20]
    assert plan.trajectories[names[1]].keep == [30, 40]
    table = runs_table(runs(plan)).filter(family="small-cooldown")
    assert table["branch.step"].to_list() == [20, 30] * 2  # sorted by name: long, short
    with pytest.raises(ConfigError, match=r"step 40 needs `small-cooldown-seed1-decay-short` at steps \[30\]"):
        folder.plan("small-cooldown-lawa")


def test_a_branch_changes_settings_of_the_optimizer_and_the_order_of_the_data(folder):
    folder.write("small-cooldown", COOLDOWN, optimizer={"beta2": 0.99}, data_seed=7, axes={"data_seed": [7, 8]})
    plan = folder.plan("small-cooldown")
    branch = plan.trajectories["small-cooldown-seed1-weight_decay0.5-data_seed8"]
    assert branch.optimizer == branch.parent.optimizer | {"beta2": 0.99}
    assert branch.shaping["data_seed"] == 8
    assert "data_seed" not in branch.parent.shaping
    table = runs_table(runs(plan))
    assert table.filter(trajectory=branch.name)["data_seed"].item() == 8
    assert table.filter(trajectory=branch.parent.name)["data_seed"].item() == 1


def test_the_table_of_runs(folder):
    folder.write("pair", TRUNK, axes={"schedule.peak": [0.01, 2e-3], "precision": ["float32", "bfloat16"]})
    table = runs_table(runs(folder.plan("small-cooldown", "small-lawa", "pair")))
    (row,) = table.filter(trajectory="small-cooldown-seed2-weight_decay0.5").to_dicts()
    trunk = "small-seed2-weight_decay0.5"
    assert list(row.values())[:6] == [row["trajectory"], "small-cooldown", trunk, "branch", trunk, "step-20"]
    assert (row["seed"], row["optimizer.weight_decay"], row["schedule.peak"]) == (2, 0.5, 0.01)
    assert (row["schedule.name"], row["precision"]) == ("wsd", "float32")
    (row,) = table.filter(trajectory="small-lawa-seed1-weight_decay0").to_dicts()
    trunk = "small-seed1-weight_decay0"
    assert list(row.values())[1:8] == ["small-lawa", trunk, "average", trunk, None, 0.0, "float32"]
    (row,) = table.filter(trajectory="pair-peak2e-3-precision-bfloat16").to_dicts()
    assert (row["family"], row["root"], row["kind"]) == ("pair", row["trajectory"], "trunk")
    assert {name: str(kind) for name, kind in table.schema.items()} | {} == {
        **dict.fromkeys(("trajectory", "family", "root", "kind", "parent", "parent_checkpoint"), "String"),
        **{"seed": "Int64", "optimizer.weight_decay": "Float64", "schedule.peak": "Float64"},
        **{"schedule.name": "String", "precision": "String"},
    }


def test_what_is_not_trained_here_has_coordinates_as_far_as_they_are_known(folder):
    plan = folder.plan("small", "pythia-14m", "olmo2-1b-ingredient1")
    table = runs_table(runs(plan))
    (row,) = table.filter(trajectory="olmo2-1b-ingredient1").to_dicts()
    assert (row["family"], row["root"], row["kind"], row["parent"]) == (
        *("olmo2-1b-ingredient1", "olmo2-1b", "branch", "olmo2-1b"),
    )
    assert (row["seed"], row["optimizer.weight_decay"]) == (None, 0.1)
    assert table.columns[6:] == ["optimizer.weight_decay", "seed"]
    assert runs_table(runs(folder.plan("pythia-14m"))).columns[6:] == ["seed"]


def test_names_of_values(folder):
    axes = {
        "schedule.peak": [0.01, 1e-3, 1.25e-3, 1, 1e6],
        "model.tie_word_embeddings": [True, False],
    }
    folder.write("many", TRUNK, axes=axes, model=TRUNK["model"] | {"tie_word_embeddings": True})
    names = list(folder.plan("many").trajectories)
    assert names[::2] == [
        f"many-peak{peak}-tie_word_embeddings-true" for peak in ("0.01", "1e-3", "1.25e-3", "1", "1e6")
    ]


def test_axes_whose_last_words_are_the_same_have_their_whole_names(folder):
    schedule = {"name": "wsd", "peak": 0.01, "warmup": 5, "decay": {"start": 20, "end": 40, "shape": "linear"}}
    variants = {"decay.end": {"now": {"schedule.decay.end": 40}}, "the.end": {"now": {"schedule.decay.start": 20}}}
    folder.write("many", TRUNK, schedule=schedule, axes=variants)
    assert list(folder.plan("many").trajectories) == ["many-decay.end-now-the.end-now"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {}}, "small.yaml: `axes`: {} should be non-empty"),
        ({"axes": {"seed": []}}, "small.yaml: `axes.seed`: [] should be non-empty"),
        ({"axes": {"seed": 1}}, "small.yaml: `axes.seed`: 1 is not of type 'array', 'object'"),
        ({"axes": {"seed": [[1]]}}, "small.yaml: `axes.seed.0`: [1] is not of type"),
        ({"axes": {"sede": [1, 2]}}, "small.yaml: axes: the file has no `sede`"),
        ({"axes": {"optimizer.weight": [1, 2]}}, "small.yaml: axes: the file has no `optimizer.weight`"),
        ({"axes": {"a": {"b": {"sede": 1}}}}, "small.yaml: axes: the file has no `sede`"),
        ({"axes": {"seed": [1, "x"]}}, "small.yaml, member `small-seed-x`: `seed`: 'x' is not of type 'integer'"),
        (
            {"axes": {"schedule.peak": [0.1, "5e-3"]}},
            "small.yaml, member `small-peak-5e-3`: `schedule.peak`: '5e-3' is not of type 'number' (YAML reads it as "
            "text): write 5.0e-3",
        ),
        ({"axes": {"seed": [1, -1]}}, "small.yaml, member `small-seed-1`: `seed`: -1 is less than the minimum of 0"),
        ({"axes": {"seed": [1, 1]}}, "small.yaml: axes.seed: a value is given twice in [1, 1]"),
        ({"axes": {"seed": [1, 1.0]}}, "small.yaml: axes.seed: a value is given twice in [1, 1.0]"),
        ({"axes": {"corpus": ["a/b"]}}, "small.yaml, member `small-corpus-a/b`: `corpus`: 'a/b' is no name"),
        ({"axes": {"source": ["train"]}}, "small.yaml: axes: `source` cannot vary"),
        ({"axes": {"seed": [1], "a": {"b": {"seed": 1}}}}, "small.yaml: axes: `seed` varies along two of them"),
        ({"axes": {"a": {"b" * 99: {"seed": 1}}}}, "cannot be the name of a member: a name has up to 100"),
        ({"axes": {"seed": [*range(40)], "data_seed": [*range(40)]}, "data_seed": 1}, "axes: there are 1,600 members"),
        ({"axes": {"window": [64, 8]}}, "(member `small-window8`)"),
    ],
)
def test_mistakes_in_axes(folder, changes, message):
    folder.write("small", TRUNK, **changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        folder.plan("small")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes": {"seed": [3]}}, "small-cooldown.yaml: axes.seed: its members already differ in it"),
        ({"optimizer": {"weight_decay": 0}}, "`optimizer.weight_decay` differs between the members of `small`"),
        ({"axes": {"branch.from": ["small"]}}, "small-cooldown.yaml: axes: `branch.from` cannot vary"),
        ({"axes": {"branch": {"a": {"branch": {}}}}}, "small-cooldown.yaml: axes: `branch` cannot vary"),
        ({"branch": {"from": "small-seed3", "step": 20}}, "small-cooldown.yaml: there is no trajectory `small-seed3`"),
        ({"optimizer": {"weight_dekay": 0}}, "unknown key `optimizer.weight_dekay`; did you mean `weight_decay`"),
        ({"seed": 3}, "unknown key `seed`"),
        ({"branch": {"from": "small", "step": 30}}, "no restart point at step 30 (it keeps: 20); add 30 to `restart`"),
    ],
)
def test_mistakes_in_a_branch_of_a_family(folder, changes, message):
    folder.write("small-cooldown", COOLDOWN, **changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        folder.plan("small-cooldown")


def test_a_branch_needs_a_peak_where_its_trunk_has_none(folder):
    folder.write(
        "small", TRUNK, schedule={"name": "piecewise", "segments": [{"until": 40, "shape": "constant", "from": 0.1}]}
    )
    with pytest.raises(ConfigError, match=r"give `schedule\.peak`: the schedule of `small` has none"):
        folder.plan("small-cooldown")
    folder.write("small", TRUNK, schedule={"name": "constant", "warmup": 5})
    with pytest.raises(ConfigError, match="'peak' is a required property"):
        folder.plan("small")


def test_a_family_and_a_file_of_one_name(folder):
    folder.write("small-seed2-weight_decay0.5", TRUNK)
    message = r"`small-seed2-weight_decay0\.5` is described by .*0\.5\.yaml and by .*/small\.yaml: rename one"
    for name in ("small", "small-seed2-weight_decay0.5", "small-cooldown"):
        with pytest.raises(ConfigError, match=message):
            folder.plan(name)


def test_two_families_with_members_of_one_name(folder):
    folder.write("a", TRUNK, axes={"b": {"x-seed1": {"seed": 1}}})
    folder.write("a-b-x", TRUNK, axes={"seed": [1]})
    for name in ("a", "a-b-x", "a-b-x-seed1"):
        with pytest.raises(ConfigError, match=r"`a-b-x-seed1` is described by .*: rename one of these files"):
            folder.plan(name)


def test_a_family_that_derives_from_itself(folder):
    folder.write("small", COOLDOWN, branch={"from": "small-cooldown", "step": 20})
    with pytest.raises(ConfigError, match="derives from itself, through small and small-cooldown"):
        folder.plan("small")
    folder.write("small", COOLDOWN, branch={"from": "small-seed1", "step": 20}, data_seed=1, axes={"data_seed": [1]})
    with pytest.raises(ConfigError, match="there is no trajectory `small-seed1`"):
        folder.plan("small")


def test_a_trunk_may_be_named_after_its_branch(folder):
    """Names that begin alike say nothing of what derives from what."""
    folder.write("pre-train-long", TRUNK)
    folder.write("pre-train", LAWA, of="pre")
    folder.write("pre", COOLDOWN | {"keep": [30, 40]}, branch={"from": "pre-train-long", "step": 20})
    plan = folder.plan("pre-train")
    assert list(plan.trajectories) == ["pre-train-long", "pre", "pre-train"]


def test_an_unfinished_file_disturbs_no_other_of_a_like_name(folder):
    folder.write("small", {"source": "hub"})
    folder.write("small-other", TRUNK)
    assert list(folder.plan("small-other").trajectories) == ["small-other"]
    with pytest.raises(ConfigError, match=r"small\.yaml: 'repo' is a required property"):
        folder.plan("small-seed1")


def test_a_name_that_is_none(folder):
    with pytest.raises(ConfigError, match=r"study `made-up`, cells\.0: there is no trajectory `small-seed3`"):
        folder.plan("small-seed3")


# --- averages of several trajectories ---------------------------------------------------------------------------------

SOUP = {"source": "average", "of": "orders", "average": "soup", "over": "data_seed", "keep": [40]}
TEXT = {"corpus": "smoke", "samples": 2, "window": 64, "seed": 1}


@pytest.fixture
def orders(folder):
    """Cooldowns of `small` in two orders of the data each, and their soups."""
    folder.write("small", TRUNK, axes={"seed": [1, 2]})
    folder.write("orders", COOLDOWN, data_seed=3, axes={"data_seed": [3, 4]}, keep=[30, 40])
    folder.write("soup", SOUP)
    return folder


def test_a_soup_over_an_axis_has_the_other_axes(orders):
    plan = orders.plan("soup", "orders")
    for seed in (1, 2):
        soup = plan.trajectories[f"soup-seed{seed}"]
        ingredients = [f"orders-seed{seed}-data_seed{order}" for order in (3, 4)]
        assert soup.made_from(40) == [(name, 40) for name in ingredients]
        assert (soup.parent.name, soup.run_seed, soup.came_from[1]) == (f"small-seed{seed}", seed, None)
        assert soup.settings["seed"] == seed
        assert "data_seed" not in soup.settings
        assert soup.weighing(40) == {"average": "soup", "weights": [1.0, 1.0]}
        (row,) = [row for row in plan.lineage() if row["trajectory"] == soup.name]
        assert (row["kind"], row["root"], row["parent"]) == ("soup", f"small-seed{seed}", f"small-seed{seed}")
        assert (row["soup_of"], row["seed"]) == (ingredients, seed)
    table = runs_table(runs(plan)).filter(family="soup")
    assert table["kind"].to_list() == ["average"] * 2
    assert table["data_seed"].to_list() == [None] * 2
    found = select({"what": "soup"}, places(plan.circumstances(), plan.lineage()))
    assert len(found.pairs) == 4
    assert {(pair.row.step, pair.reference.step) for pair in found.pairs} == {(40, 40)}
    assert not found.absent


def test_every_checkpoint_of_a_soup_is_needed(orders):
    plan = orders.plan("soup-seed1")
    needed = [(f"orders-seed1-data_seed{order}", 40) for order in (3, 4)]
    assert checkpoints_needed(plan) == [*needed, ("soup-seed1", 40)]


def test_an_average_of_averages(orders):
    orders.write("means", LAWA, of="orders")
    orders.write("soup", SOUP, of="means", average="greedy", calibration=TEXT)
    plan = orders.plan("soup")
    soup = plan.trajectories["soup-seed2"]
    assert soup.made_from(40) == [(f"means-seed2-data_seed{order}", 40) for order in (3, 4)]
    assert soup.parent.name == "small-seed2"
    assert (soup.settings["average.scheme"], soup.settings["average.of.scheme"]) == ("greedy", "lawa")
    assert soup.settings["average.calibration.samples"] == 2
    drawn = tokens_drawn(plan)[soup.tokenizer, "smoke", "calibration"]
    assert drawn["`soup-seed2` (2 windows of 64)"] == 128
    assert requests.needs(plan, "soup-seed2")["average"].memory > requests.PROCESS_MB


def test_several_trajectories_by_name_along_their_steps(orders):
    names = ["orders-seed1-data_seed3", "orders-seed1-data_seed4"]
    orders.write("mean", LAWA, of=names, average="ema", half_life=10, axes={"half_life": [10, 20]})
    mean = orders.plan("mean").trajectories["mean-half_life20"]
    assert mean.made_from(40) == [(name, step) for step in (30, 40) for name in names]
    assert mean.weighing(40)["weights"] == pytest.approx([2**-0.5, 2**-0.5, 1, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"over": "weight_decay"},
            "soup.yaml: `over`: `orders` has no axis `weight_decay`; its axes are seed, data_seed",
        ),
        ({"of": "orders-seed1-data_seed3"}, "has no axis `data_seed`; it is a single run"),
        ({"over": "seed"}, "of: `orders-seed1-data_seed3` and `orders-seed2-data_seed3` did not grow out of one run"),
        ({"of": ["orders", "small-seed1"]}, "soup.yaml: `orders` is a family: name members of it"),
        ({"of": ["small-seed1", "orders-seed1-data_seed3"]}, "`over`: name one family that has the axis `data_seed`"),
        ({"of": ["small-seed1"]}, "soup.yaml: `of`"),
        ({"axes": {"over": ["data_seed"]}}, "soup.yaml: axes: `over` cannot vary"),
        ({"keep": [20]}, "needs `orders-seed1-data_seed3` at steps [20]"),
        ({"window": 2, "stride": 10}, "soup.yaml: unknown key `window`, `stride`; there are: average,"),
        ({"average": "ema", "window": 2, "stride": 10}, "'half_life' is a required property"),
        ({"average": "metric", "penalty": 1.0}, "'calibration' is a required property"),
        ({"average": "greedy", "calibration": TEXT, "window": 2}, "'stride' is a dependency of 'window'"),
        (
            {"average": "greedy", "calibration": TEXT | {"corpus": "none"}},
            "soup.yaml, calibration.corpus: there is no corpus",
        ),
        ({"average": "sum"}, "`average`: 'sum' is not one of lawa, ema, soup, metric, fisher, greedy"),
    ],
)
def test_mistakes_in_a_soup(orders, changes, message):
    orders.write("soup", SOUP, **changes)
    with pytest.raises(ConfigError, match=re.escape(message)):
        orders.plan("soup")


def test_an_average_of_one_member(orders):
    orders.write("mean", {"source": "average", "of": "small", "average": "soup", "keep": [40]})
    with pytest.raises(ConfigError, match="an average needs two members at least: give `window` and `stride`, or"):
        orders.plan("mean")
