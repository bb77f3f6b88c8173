"""Plan: links, lineages, members and cells of small made-up trajectories, and mistakes across files."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from scripts.lib.runtime.config_files import ConfigError, read_yaml
from scripts.lib.study.plan import Cell, make_plan
from scripts.lib.study.replicates import repeat

BRANCH = {
    "source": "train",
    "branch": {"from": "smoke", "step": 20},
    "schedule": {"name": "wsd", "peak": 0.01, "warmup": 5, "decay": {"start": 20, "end": 40, "shape": "linear"}},
    "keep": [40],
}


@pytest.fixture
def write(tmp_path):
    """A copy of config/ and a function that writes one trajectory into it."""
    shutil.copytree("config", tmp_path / "config")

    def write_trajectory(name, content):
        (tmp_path / "config/trajectories" / f"{name}.yaml").write_text(yaml.safe_dump(content))

    write_trajectory.folder = tmp_path / "config"
    return write_trajectory


def plan(folder, *cells):
    config = read_yaml("config/default.yaml")
    update_config(config, read_yaml("config/studies/smoke.yaml"))
    config["evaluate_loss"] = {"window": 64, "windows": 8, "batch_size": 4}
    config["evaluate_tasks"] = {"documents": 8, "seed": 1}
    config["study"] = {"name": "made-up", "title": "made up", "cells": list(cells)}
    return make_plan(config, folder)


def block(*trajectories, methods=("rtn-w3-g32",), **more):
    return {"trajectories": list(trajectories), "methods": list(methods), **more}


def test_a_run_is_a_chain_of_links(write):
    run = read_yaml("config/trajectories/smoke.yaml") | {"keep": [10, 20, 30, 40], "restart": [20]}
    write("run", run)
    assert plan(write.folder, block("run")).trajectories["run"].links == {
        "from-0": {"start": 0, "end": 20, "keep": [10, 20], "restart": True, "parent": None},
        "from-20": {"start": 20, "end": 40, "keep": [30, 40], "restart": False, "parent": ("run", "from-0")},
    }


def test_extending_a_run_renames_no_link(write):
    run = read_yaml("config/trajectories/smoke.yaml")
    write("run", run)
    before = plan(write.folder, block("run")).trajectories["run"].links
    write("run", run | {"keep": [*run["keep"], 60]})
    after = plan(write.folder, block("run")).trajectories["run"].links
    assert before.keys() == after.keys()
    assert before["from-0"] == after["from-0"]


def test_a_branch_goes_on_from_its_parents_link_and_inherits(write):
    write("branch", BRANCH)
    made = plan(write.folder, block("branch"))
    branch = made.trajectories["branch"]
    assert branch.links["from-20"]["parent"] == ("smoke", "from-0")
    assert branch.parent is made.trajectories["smoke"]
    assert branch.shape == branch.parent.shape
    row = branch.describe(40)
    assert (row["parent"], row["phase"], row["learning_rate"]) == ("smoke/step-20", "decay", 0.0)
    assert row["tokens"] == 40 * 8 * 64


def test_the_baseline_is_always_there_and_blocks_join(write):
    made = plan(
        write.folder,
        block("smoke", checkpoints=[40], loss=["smoke"]),
        block("smoke", checkpoints="last", methods=["nf4"], loss=["smoke"], tasks=["smoke"]),
    )
    assert made.cells == [Cell("smoke", 40, "nf4"), Cell("smoke", 40, "none"), Cell("smoke", 40, "rtn-w3-g32")]
    assert made.losses[Cell("smoke", 40, "none")] == ["smoke"]
    assert made.tasks == {
        Cell("smoke", 40, "none"): ["smoke"],
        Cell("smoke", 40, "nf4"): ["smoke"],
        Cell("smoke", 40, "rtn-w3-g32"): [],
    }


def test_quantized_cells_are_sliced_and_their_checkpoints_described(write):
    made = plan(
        write.folder,
        block("smoke", checkpoints=[40], loss=["smoke"]),
        block("smoke", checkpoints=[40], methods=["nf4"], slices=["smoke"]),
    )
    assert {cell.method: corpora for cell, corpora in made.slices.items()} == {
        **{"none": ["smoke"], "nf4": ["smoke"], "rtn-w3-g32": []}
    }
    cell = Cell("smoke", 40, "nf4")
    assert made.evaluations(cell) == [("slice", "smoke", "results/evaluated/smoke/step-40/nf4/slice-smoke.parquet")]
    assert made.evaluations(Cell("smoke", 40, "none")) == [
        ("evaluate_loss", "smoke", "results/evaluated/smoke/step-40/none/loss-smoke.parquet"),
        ("describe_layers", "smoke", "results/evaluated/smoke/step-40/none/layers-smoke.parquet"),
    ]


def test_draws_are_methods_of_recipes_that_use_calibration_text(write):
    methods = ("none", "rtn-w3-g32", "gptq-w3-g16")
    made = plan(write.folder, block("smoke", methods=methods, draws=3, checkpoints=[40], loss=["smoke"]))
    names = ["gptq-w3-g16", "gptq-w3-g16@2", "gptq-w3-g16@3", "none", "rtn-w3-g32"]
    assert [cell.method for cell in made.cells] == names
    assert {name: (method.recipe, method.draw) for name, method in made.methods.items()} == {
        "rtn-w3-g32": ("rtn-w3-g32", None),
        "gptq-w3-g16": ("gptq-w3-g16", 1),
        "gptq-w3-g16@2": ("gptq-w3-g16", 2),
        "gptq-w3-g16@3": ("gptq-w3-g16", 3),
    }
    assert made.recipes["gptq-w3-g16@3"] == made.recipes["gptq-w3-g16"]
    assert all(made.losses[cell] == ["smoke"] for cell in made.cells)


def test_draws_without_calibration_text_are_refused(write):
    with pytest.raises(ConfigError) as caught:
        plan(write.folder, block("smoke", methods=("rtn-w3-g32", "nf4"), draws=2))
    assert str(caught.value) == (
        "study `made-up`, cells.0.draws: 2: `rtn-w3-g32`, `nf4` use no calibration text to draw: leave `draws` out"
    )


def with_replicates(folder, *cells, **replicates):
    config = read_yaml("config/default.yaml")
    update_config(config, read_yaml("config/studies/smoke.yaml"))
    blocks = list(cells) or [block("smoke", "smoke-cooldown")]
    config["study"] |= {"claims": [], "cells": blocks, "replicates": replicates}
    return make_plan(config, folder)


def test_neighbours_are_checkpoints_of_one_trajectory_in_their_order(write):
    run = read_yaml("config/trajectories/smoke.yaml") | {"schedule": {"name": "constant", "peak": 0.01, "warmup": 5}}
    write("smoke", run | {"keep": [20, 25, 30, 35, 40]})
    made = with_replicates(write.folder, neighbours=[{"trajectories": ["smoke"], "checkpoints": [40, 30, 35]}])
    assert made.neighbours == [[("smoke", "step-30"), ("smoke", "step-35"), ("smoke", "step-40")]]
    assert with_replicates(write.folder).neighbours == []


def test_neighbours_of_a_family_are_a_group_a_member(write):
    run = read_yaml("config/trajectories/smoke.yaml")
    write("smoke", run | {"schedule": {"name": "constant", "peak": 0.01, "warmup": 5}, "keep": [20, 30, 40]})
    write("pair", read_yaml(write.folder / "trajectories/smoke.yaml") | {"axes": {"seed": [1, 2]}})
    entry = {"trajectories": ["pair"], "checkpoints": [20, 30, 40]}
    made = with_replicates(write.folder, block("pair"), neighbours=[entry])
    assert [{name for name, _ in group} for group in made.neighbours] == [{"pair-seed1"}, {"pair-seed2"}]
    assert {name: made.trajectories[name].run_seed for name in made.trajectories} == {"pair-seed1": 1, "pair-seed2": 2}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"trajectories": ["smok"]}, "neighbours.0.trajectories: there is no trajectory `smok`; did you mean `smoke`"),
        ({"checkpoints": [20, 30, 31]}, "neighbours.0.checkpoints: `smoke` has no cell at steps [31]: add them to"),
        ({"checkpoints": [20, 30, 40]}, "neighbours.0.checkpoints: `smoke` is in no stable phase at step 40 (decay)"),
        ({"checkpoints": [20, 30]}, "`replicates.neighbours.0.checkpoints`: [20, 30] is too short"),
        ({"steps": [20]}, "unknown key `replicates.neighbours.0.steps`"),
    ],
)
def test_mistakes_in_neighbours(write, entry, message):
    run = read_yaml("config/trajectories/smoke.yaml")
    decay = {"name": "wsd", "peak": 0.01, "warmup": 5, "decay": {"start": 30, "end": 40, "shape": "linear"}}
    write("smoke", run | {"schedule": decay, "keep": [20, 30, 40]})
    with pytest.raises(ConfigError) as caught:
        with_replicates(write.folder, neighbours=[{"trajectories": ["smoke"], "checkpoints": [20, 30, 40]} | entry])
    assert message in str(caught.value)


def test_a_repeat_is_read_once_it_is_there_and_never_reads_itself(write, tmp_path):
    assert repeat(with_replicates(write.folder)) == (None, None)
    assert repeat(with_replicates(write.folder, numerics="./results")) == (None, "this is the repeat itself")
    made = with_replicates(write.folder, numerics=str(tmp_path / "again"))
    path = tmp_path / "again/tables/smoke/measurements.parquet"
    assert repeat(made) == (None, f"{path} is not there yet")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert repeat(made) == (str(path), None)


def test_branches_and_averages_have_the_seed_of_their_run(write):
    write("run", read_yaml("config/trajectories/smoke.yaml") | {"seed": 7})
    write("branch", BRANCH | {"branch": {"from": "run", "step": 20}})
    write("mean", {"source": "average", "of": "run", "average": "lawa", "window": 2, "stride": 10, "keep": [40]})
    made = plan(write.folder, block("branch"), block("mean"), block("smoke")).trajectories
    assert {name: made[name].run_seed for name in made} == {"run": 7, "branch": 7, "mean": 7, "smoke": 1}


def test_members_of_an_average(write):
    assert plan(write.folder, block("smoke-lawa")).trajectories["smoke-lawa"].members(40) == [30, 40]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BRANCH | {"branch": {"from": "smoke", "step": 30}}, "keeps no restart point at step 30 (it keeps: 20)"),
        (BRANCH | {"branch": {"from": "smoek", "step": 20}}, "did you mean `smoke`"),
        (BRANCH | {"branch": {"from": "smoke-lawa", "step": 20}}, "is not trained by the workflow"),
        (BRANCH | {"keep": [20]}, "do not lie after the branch's start"),
        (BRANCH | {"keep": [50]}, "step 50 lies after the schedule's end at step 40"),
        (
            BRANCH | {"schedule": BRANCH["schedule"] | {"decay": {"start": 41, "end": 40, "shape": "linear"}}},
            "decay starts at step 41, after its end at step 40",
        ),
        (
            {"source": "average", "of": "smoke", "average": "lawa", "window": 3, "stride": 10, "keep": [30]},
            "needs `smoke` at steps [10], which that trajectory does not keep",
        ),
        ({"source": "local", "checkpoints": [{"path": "nowhere", "step": 1}]}, "step 1 has no `tokens`"),
        (
            {
                "source": "local",
                "checkpoints": [{"path": "nowhere", "step": 1, "tokens": 1, "learning_rate": 0.1, "phase": "stable"}],
            },
            "nowhere is not a folder",
        ),
    ],
)
def test_mistakes_in_a_derived_trajectory(write, content, message):
    write("wrong", content)
    with pytest.raises(ConfigError) as caught:
        plan(write.folder, block("wrong"))
    assert message in str(caught.value)
    assert "wrong.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (block("nosuch"), "there is no trajectory `nosuch`"),
        (block("smoke", methods=["rtn-w3-g31"]), "there is no recipe `rtn-w3-g31`"),
        (block("smoke", loss=["smokee"]), "there is no corpus `smokee`: "),
        (block("smoke", loss=["c4"]), "cells.0.loss: corpus `c4` has no validation documents"),
        (block("smoke", tasks=["nosuch"]), "there is no suite `nosuch`"),
        (block("smoke", checkpoints=[25]), "there is no step 25; there are 20, 30, 40"),
        (block("smoke", checkpoint="all"), "unknown key `cells.0.checkpoint`; did you mean `checkpoints`?"),
    ],
)
def test_mistakes_in_a_study(write, cells, message):
    with pytest.raises(ConfigError) as caught:
        plan(write.folder, cells)
    assert message in str(caught.value)


def test_a_task_with_a_wrong_field(write):
    path = Path(write.folder) / "tasks" / "docstrings-cloze.yaml"
    path.write_text(path.read_text().replace("doc_to_target", "doc_to_taget"))
    with pytest.raises(ConfigError, match=r"doc_to_taget.*did you mean 'doc_to_target'"):
        plan(write.folder, block("smoke", tasks=["smoke"]))


def test_only_corpora_and_tokenizers_that_are_used_are_read(write):
    (write.folder / "corpora/broken.yaml").write_text("source: [\n")
    made = plan(write.folder, block("smoke", tasks=["docstrings"]))
    assert made.corpora.keys() == {"smoke", "docstrings"}, "of the run and the probe, and of the tasks' documents"
    assert made.tokenizers == {"smoke": {"source": "train", "corpus": "smoke", "vocabulary": 512}}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("corpora/smoke", {"packges": ["numpy"]}, "smoke.yaml: unknown key `packges`; did you mean `packages`?"),
        ("tokenizers/smoke", {"vocabulary": 9}, "smoke.yaml: `vocabulary`: 9 is less than the minimum of 257"),
        ("tokenizers/smoke", {"corpus": "smok"}, "tokenizers/smoke.yaml, corpus: there is no corpus `smok`"),
        ("tokenizers/smoke", {"corpus": "c4"}, "smoke.yaml, corpus: corpus `c4` has no train documents"),
        ("trajectories/smoke", {"tokenizer": "smok"}, "smoke.yaml, tokenizer: there is no tokenizer `smok`"),
    ],
)
def test_mistakes_in_a_corpus_and_a_tokenizer(write, file, change, message):
    path = write.folder / f"{file}.yaml"
    path.write_text(yaml.safe_dump(read_yaml(path) | change))
    with pytest.raises(ConfigError, match=re.escape(message)):
        plan(write.folder, block("smoke"))


def test_sections_of_old_are_answered_with_the_files_in_their_place():
    old = {"corpus": {"mine": {}, "other": {}}, "tokenize": {"mine": {}}}
    with pytest.raises(ConfigError) as caught:
        make_plan(read_yaml("config/default.yaml") | {"study": {}} | old)
    assert str(caught.value).splitlines() == [
        "config: there is no section `corpus`: write it to config/corpora/mine.yaml, config/corpora/other.yaml",
        "config: there is no section `tokenize`: write it to config/tokenizers/mine.yaml",
    ]


def test_a_local_run_named_like_a_tokenizer(write, tiny_model):
    checkpoint = {"path": str(tiny_model), "step": 1, "tokens": 1, "learning_rate": 0.1, "phase": "stable"}
    write("docstrings-2048", {"source": "local", "checkpoints": [checkpoint]})
    with pytest.raises(ConfigError, match=r"tokenizers/docstrings-2048\.yaml is another; rename one of them"):
        plan(write.folder, block("docstrings-2048"))


def test_circles_end(write):
    write("a", BRANCH | {"branch": {"from": "b", "step": 20}})
    write("b", BRANCH | {"branch": {"from": "a", "step": 20}})
    with pytest.raises(ConfigError, match="derives from itself"):
        plan(write.folder, block("a"))


def test_a_local_run(write, tiny_model):
    checkpoints = [{"path": str(tiny_model), "step": step} for step in (200, 100)]
    schedule = {"name": "linear", "peak": 0.1, "warmup": 0, "end": 200}
    write("own", {"source": "local", "checkpoints": checkpoints, "schedule": schedule, "tokens_per_step": 1000})
    made = plan(write.folder, block("own"))
    own = made.trajectories["own"]
    assert own.steps == [100, 200]
    row = own.describe(100)
    assert (row["tokens"], row["phase"], row["peak_learning_rate"]) == (100_000, "decay", 0.1)
    assert row["learning_rate"] == pytest.approx(0.05)
    assert own.run_seed is None
    assert made.tokenizer_definition(own.tokenizer) == {"source": "model", "path": str(tiny_model)}


@pytest.mark.parametrize("study", sorted(Path("config/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_correct(study):
    if study.stem in ("choose", "methods-real"):
        pytest.skip("of models on disk, which are not here; tests/workflow/test_dryruns.py plans it with some")
    config = read_yaml("config/default.yaml")
    update_config(config, read_yaml(study))
    made = make_plan(config)
    assert made.cells
    assert made.config["study"]["name"] == study.stem
