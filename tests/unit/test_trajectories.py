"""The four kinds of trajectories answer the same questions, each in its way; made by hand, without files or a plan."""

from dataclasses import replace

import pytest

from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.trajectories.averaged import Averaged
from scripts.lib.study.trajectories.base import require_context
from scripts.lib.study.trajectories.families import SOURCES
from scripts.lib.study.trajectories.local import Local
from scripts.lib.study.trajectories.published import Published, points, require_pins
from scripts.lib.study.trajectories.trained import Trained

COOLDOWN = {"name": "wsd", "peak": 0.01, "warmup": 5, "decay": {"start": 20, "end": 40, "shape": "linear"}}
RUN = {
    "schedule": {"name": "constant", "peak": 0.1, "warmup": 10},
    "tokens_per_step": 1000,
    "revisions": {"pattern": r"step(?P<step>\d+)", "all": ["step5", "step40"]},
}
BEGINNING = {"step": 0, "tokens": 0}
LOCK = {"revisions": {"step40": {"repo": "of/run-step40", "files": {"model.safetensors": {"bytes": 123}}}}}


@pytest.fixture
def trunk():
    return Trained(
        "trunk",
        shape={
            **{"architecture": "llama", "hidden_size": 8, "intermediate_size": 16},
            **{"num_hidden_layers": 2, "num_attention_heads": 2},
        },
        corpus="text",
        tokenizer="small",
        tokenizer_definition={"source": "train", "corpus": "text", "vocabulary": 300},
        window=16,
        batch_size=4,
        micro_batch_size=None,
        optimizer={"weight_decay": 0.1},
        schedule={"name": "constant", "peak": 0.01, "warmup": 5},
        seed=1,
        precision="float32",
        keep=[40, 20, 10],
        restart=[20],
    )


@pytest.fixture
def branch(trunk):
    return replace(trunk, name="branch", schedule=COOLDOWN, keep=[30, 40], restart=[], parent=trunk, start=20)


@pytest.fixture
def published():
    return Published(
        "run",
        repo="of/run-{revision}",
        tokenizer_repo="of/tokenizer",
        shape={"parameters": 1000, "dtype": "bfloat16"},
        tokens_per_step=RUN["tokens_per_step"],
        schedule=RUN["schedule"],
        points=points(RUN, BEGINNING),
        lock=LOCK,
        remote_code=None,
        parent=None,
        before=BEGINNING,
    )


@pytest.fixture
def local(tiny_model):
    return Local("own", [{"path": str(tiny_model), "step": step} for step in (200, 100)], RUN["schedule"], 1000)


def test_every_source_of_a_file_has_its_class():
    assert {"train": Trained, "hub": Published, "local": Local, "average": Averaged} == SOURCES


def test_a_trained_run(trunk):
    assert trunk.steps == [10, 20, 40]
    assert [trunk.link_of(step) for step in trunk.steps] == ["from-0", "from-0", "from-20"]
    assert trunk.links["from-20"] == {
        **{"start": 20, "end": 40, "keep": [40], "restart": False},
        "parent": ("trunk", "from-0"),
    }
    shaping = ["model", "window", "batch_size", "micro_batch_size", "optimizer", "schedule", "seed", "precision"]
    assert list(trunk.shaping) == shaping, "what is added here trains all runs anew"
    assert list(replace(trunk, data_seed=2).shaping) == [*shaping, "data_seed"]
    assert trunk.checkpoint_bytes(40) == (4 * trunk.model.parameters, "estimate")
    assert trunk.describe(10) == {
        **{"trajectory": "trunk", "checkpoint": "step-10", "source": "train", "step": 10, "parent": None},
        **{"tokens": 10 * 4 * 16, "learning_rate": 0.01, "peak_learning_rate": 0.01, "phase": "stable"},
    }


def test_a_branch_begins_in_its_parents_link(trunk, branch):
    assert list(branch.links) == ["from-20"]
    assert branch.links["from-20"]["parent"] == ("trunk", trunk.link_ending(20)) == ("trunk", "from-0")
    assert branch.describe(40)["parent"] == "trunk/step-20"
    curve = branch.curve(50)
    assert (curve["steps"][0], curve["steps"][-1], curve["tokens"][0]) == (20, 40, 20 * 64)
    assert curve["learning_rate"][0] == pytest.approx(0.01)
    assert curve["learning_rate"][-1] == 0


def test_a_published_run(published):
    assert published.steps == [5, 40]
    assert published.tokenizer == "of--tokenizer"
    assert published.tokenizer_definition == {"source": "hub", "repo": "of/tokenizer"}
    found = published.published(40)
    assert (found["repo"], found["revision"], found["remote_code"]) == ("of/run-step40", "main", {})
    assert published.checkpoint_bytes(40) == (123, "lock")
    assert published.checkpoint_bytes(5) == (2 * 1000, "estimate")
    assert (published.describe(5)["learning_rate"], published.describe(5)["tokens"]) == (pytest.approx(0.05), 5000)


def test_a_published_run_goes_on_from_another(published):
    before = published.seen(40)
    assert before == {"step": 40, "tokens": 40_000}
    later = replace(published, name="later", parent=published, before=before, points=points(RUN, before))
    assert later.steps == [45, 80]
    assert (later.describe(45)["parent"], later.describe(45)["tokens"]) == ("run", 45_000)
    assert later.curve(10)["steps"][0] == 40
    assert later.curve(10)["steps"][-1] == 80
    assert later.seen(10) == {"step": 50, "tokens": 50_000}


def test_a_published_run_goes_on_from_no_other_kind(trunk, tmp_path):
    content = {"after": {"trajectory": "trunk", "step": 20}}
    assert Published.origin(content) == "trunk"
    with pytest.raises(ConfigError, match=r"run\.yaml: after\.trajectory: `trunk` is not published"):
        Published.read("run", content, tmp_path / "run.yaml", {}, trunk)


def test_only_code_that_is_asked_for_has_to_be_pinned(published, trunk):
    require_pins({"run": published, "trunk": trunk})
    with pytest.raises(ConfigError, match=r"`run`: `remote_code`: .* none is pinned"):
        require_pins({"run": replace(published, remote_code={})})


def test_a_local_run(local, tiny_model):
    assert local.steps == [100, 200]
    assert local.path(100) == str(tiny_model)
    assert (local.tokenizer, local.tokenizer_definition) == ("own", {"source": "model", "path": str(tiny_model)})
    assert local.checkpoint_bytes(100) == (sum(path.stat().st_size for path in tiny_model.iterdir()), "folder")
    assert local.model.vocabulary == 64
    assert local.describe(100)["tokens"] == 100_000
    assert local.curve(10) is None


@pytest.mark.parametrize("kind", ["trunk", "published", "local"])
def test_an_average_is_what_its_newest_member_is(kind, trunk, published, local):
    of = {"trunk": trunk, "published": published, "local": local}[kind]
    newest = of.steps[-1]
    scheme = {"average": "lawa", "window": 2, "stride": newest - of.steps[-2]}
    average = Averaged("mean", [of], scheme, keep=[newest])
    assert average.members(newest) == of.steps[-2:]
    assert average.made_from(newest) == [(of.name, step) for step in of.steps[-2:]]
    assert of.made_from(newest) == []
    row = of.describe(newest) | {"trajectory": "mean", "source": "average", "parent": of.name, "phase": "average"}
    assert average.describe(newest) == row
    assert average.checkpoint_bytes(newest) == of.checkpoint_bytes(newest)
    assert (average.model, average.tokenizer) == (of.model, of.tokenizer)
    assert average.tokenizer_definition == of.tokenizer_definition
    assert average.curve(10) is None


def test_where_each_kind_comes_from_and_how_it_was_set(trunk, branch, published, local):
    average = Averaged("mean", [branch], {"average": "lawa", "window": 2, "stride": 10}, keep=[40])
    after = published.seen(40)
    later = replace(published, name="later", parent=published, before=after, points=points(RUN, after))
    found = [run.came_from for run in (trunk, branch, average, published, later, local)]
    assert found == [(None, None), (trunk, 20), (branch, None), (None, None), (published, 40), (None, None)]
    assert replace(later, before=published.seen(30)).came_from == (published, None), "no checkpoint is there"
    assert {
        key: trunk.settings[key] for key in ("seed", "data_seed", "model.hidden_size", "optimizer.weight_decay")
    } == {
        **{"seed": 1, "data_seed": 1, "model.hidden_size": 8, "optimizer.weight_decay": 0.1},
    }
    assert "micro_batch_size" not in trunk.settings
    assert branch.settings == trunk.settings | {
        **{"schedule.name": "wsd", "schedule.decay.start": 20, "schedule.decay.end": 40},
        **{"schedule.decay.shape": "linear", "branch.step": 20},
    }
    assert average.settings == branch.settings | {"average.scheme": "lawa", "average.window": 2, "average.stride": 10}
    assert published.settings["tokens_per_step"] == 1000
    assert published.settings["model.dtype"] == "bfloat16"
    assert local.settings == {
        **{"schedule.name": "constant", "schedule.peak": 0.1, "schedule.warmup": 10, "tokens_per_step": 1000},
    }


def test_a_model_has_to_read_the_windows_that_it_is_measured_on():
    config = {"evaluate_loss": {"window": 128}}
    require_context(128, config, "file")
    require_context(None, config, "file")
    with pytest.raises(ConfigError, match=r"file has a context of 64; evaluate_loss\.window is 128"):
        require_context(64, config, "file")
