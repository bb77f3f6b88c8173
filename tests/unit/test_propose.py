"""make propose: what a hub says of a run becomes a trajectory file that lacks what a hub cannot know."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from scripts.commands import propose
from scripts.lib.hub import client
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.plan import Plan
from scripts.lib.study.trajectories.published import require_pins
from tests.hub import connect
from tests.hub.server import Hub
from tests.tools import add_trajectory

REPO = "org/run"
BATCH = 2**21
REGISTRY = sorted(Path("config/trajectories").glob("olmo2-*.yaml"))
CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 4096}
CONFIG |= {"vocab_size": 512, "torch_dtype": "bfloat16"}
FILES = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": bytes(2000), "tokenizer.json": b"{}"}
SCHEDULE = {"name": "constant", "peak": 0.001, "warmup": 10}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as server:
        connect(server, monkeypatch)
        yield server


@pytest.fixture
def read(tmp_path):
    """A function that loads the text of a trajectory file, with some keys changed, as a study would."""

    def load(text, **more):
        (tmp_path / "run.yaml").write_text(text + ("\n" + yaml.safe_dump(more) if more else ""))
        return add_trajectory(Plan({"evaluate_loss": {"window": 128}}), "run", tmp_path, "test")

    return load


def publish(server, names, files=FILES):
    for name in names:
        server.add(REPO, name, files)


def olmo(*steps, stage="stage1"):
    return [f"{stage}-step{step}-tokens{-(-step * BATCH // 10**9)}B" for step in steps]


def test_a_run_with_stages(server, read):
    main, second = olmo(1000, 40_000, 90_000, 1_907_359), olmo(1000, 2000, stage="stage2-ingredient1")
    publish(server, ["main", *main, *second])
    server.repos[REPO].tags["v1.0"] = server.repos[REPO].branches["main"]
    text = propose.propose(REPO)
    with pytest.raises(ConfigError, match=r"run\.yaml: 'schedule' is a required property"):
        read(text)
    found = read(text, schedule=SCHEDULE)
    assert [point["step"] for point in found.points] == [1000, 40_000, 90_000, 1_907_359]
    revisions = yaml.safe_load(text)["revisions"]
    assert revisions["pattern"] == r"stage1-step(?P<step>\d+)-tokens\d+B"
    assert revisions["verified"] is True
    assert found.tokens_per_step == BATCH
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512, "context": 4096, "dtype": "bfloat16"}
    assert found.shape == {"architecture": "llama", "parameters": 1000} | sizes
    assert "remote_code" not in text
    assert "tokenizer_repo" not in text
    assert r"# 2 like stage2-ingredient1-step(?P<step>\d+)-tokens\d+B" in text
    assert "# 2 without a step: main, v1.0" in text


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["step1", "step1000"], r"step(?P<step>\d+)"),
        (["ckpt_000", "ckpt_100"], r"ckpt_(?P<step>\d+)"),
        (["iter_0010000", "iter_0000020"], r"iter_(?P<step>\d+)"),
        (["checkpoint-5000", "checkpoint-10000"], r"checkpoint-(?P<step>\d+)"),
        (["global_step10", "global_step20"], r"global_step(?P<step>\d+)"),
        (["step10-loss2.5", "step20-loss2.25"], r"step(?P<step>\d+)-loss\d+\.\d+"),
        (["a/b.c-step-7", "a/b.c-step-9"], r"a/b\.c-step-(?P<step>\d+)"),
    ],
)
def test_names_of_revisions(server, read, names, pattern):
    publish(server, names)
    text = propose.propose(REPO)
    with pytest.raises(ConfigError, match="'schedule' is a required property"):
        read(text)
    with pytest.raises(ConfigError, match="'tokens_per_step' is a required property"):
        read(text, schedule=SCHEDULE)
    found = read(text, schedule=SCHEDULE, tokens_per_step=BATCH)
    assert sorted(point["revision"] for point in found.points) == sorted(names)
    assert yaml.safe_load(text)["revisions"]["pattern"] == pattern


def test_names_that_are_no_steps(server):
    publish(server, ["main", "step-50K-105b", "step1.5", "step\u0661\u0662", "v2"])
    with pytest.raises(client.Unavailable, match=r"no branch or tag has a step in its name, .*step-50K-105b"):
        propose.propose(REPO)


def test_names_of_the_same_step_are_proposed_once(server, read):
    publish(server, ["iter_10", "iter_010", "iter_20"])
    text = propose.propose(REPO)
    assert len(read(text, schedule=SCHEDULE, tokens_per_step=1).points) == 2
    assert "# 1 of the same steps: iter_10" in text


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1000, None)], None),
        ([(0, 0)], None),
        ([(1000, 3)], 2**21),  # 2 to 4 billion
        ([(452_000, 2000), (556_000, 2460)], 135 * 2**15),  # OLMo 7B
        ([(10**7, 30_000)], 3000 * 10**3),
        ([(1000, 1), (2000, 9)], 2_750_000),  # it changes: the median
    ],
)
def test_tokens_of_a_step(rows, expected):
    tokens, note = propose.tokens_per_step(rows)
    assert tokens == expected
    assert bool(note) == (expected is not None)


@pytest.mark.parametrize("path", REGISTRY, ids=lambda path: path.stem)
def test_names_of_the_registry_give_its_batches(path):
    content = yaml.safe_load(path.read_text())
    series, others = propose.group(content["revisions"].get("all", []))
    assert others == []
    if series:
        tokens, _ = propose.tokens_per_step([row for rows in series.values() for row in rows.values()])
        assert tokens == content["tokens_per_step"]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_parameters_are_counted_from_the_index(server, read, kind):
    shard = {"safetensors": "model-1.safetensors", "bin": "pytorch_model-1.bin"}[kind]
    index = {client.INDEX[kind]: json.dumps({"metadata": {"total_size": 4000}, "weight_map": {}}).encode()}
    config = {key: value for key, value in CONFIG.items() if key != "torch_dtype"}
    publish(server, ["step1"], {"config.json": json.dumps(config).encode(), shard: bytes(4100)} | index)
    assert yaml.safe_load(propose.propose(REPO))["model"]["parameters"] == 1000  # float32, if nothing else is said


def test_a_model_with_code_of_its_own(server, read):
    config = CONFIG | {"model_type": "own_llama", "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    files = {"config.json": json.dumps(config).encode(), "modeling_own.py": b"", "model.safetensors": bytes(8)}
    publish(server, ["main", "step1"], files)
    text = propose.propose(REPO)
    assert f"commit {server.repos[REPO].branches['step1']}" in text
    assert "modeling_own.py" in text
    assert "# tokenizer_repo: owner/name" in text
    with pytest.raises(ConfigError, match="'schedule' is a required property"):
        read(text)
    proposed = read(text, schedule=SCHEDULE, tokens_per_step=1)
    with pytest.raises(ConfigError, match="`remote_code`: org/run needs its own code to run, and none is pinned"):
        require_pins({"run": proposed})


def test_a_model_that_nothing_can_run(server):
    publish(server, ["step1"], FILES | {"config.json": json.dumps(CONFIG | {"model_type": "own_llama"}).encode()})
    assert "# transformers has no class `own_llama`" in propose.propose(REPO)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": b"{}", "model.safetensors": b"12"}, "its config.json names no `model_type`"),
        ({"config.json": b"{}"}, "org/run at step1 has no weights"),
    ],
)
def test_a_revision_that_holds_no_model(server, files, message):
    publish(server, ["step1"], files)
    with pytest.raises(client.Unavailable, match=message):
        propose.propose(REPO)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the command with arguments, its files below a folder of this test."""
    monkeypatch.setattr(propose, "FOLDER", tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["propose", *arguments])
        propose.main()

    return call


def test_the_command_prints_or_writes_but_never_overwrites(server, run, tmp_path, capsys):
    publish(server, ["main", "step1"])
    run(REPO)
    printed = capsys.readouterr().out
    assert not list(tmp_path.glob("*.yaml"))
    run(REPO, "run")
    assert (tmp_path / "run.yaml").read_text() == printed.removesuffix("\n")
    (tmp_path / "run.yaml").write_text("mine")
    with pytest.raises(SystemExit, match=r"run\.yaml exists and is not overwritten"):
        run(REPO, "run")
    assert (tmp_path / "run.yaml").read_text() == "mine"


@pytest.mark.parametrize("arguments", [[], ["run"], [REPO, "../run"]])
def test_the_command_says_how_it_is_used(run, arguments):
    with pytest.raises(SystemExit, match="say REPO=owner/name"):
        run(*arguments)


def test_a_repository_that_is_not_there(server, run):
    with pytest.raises(SystemExit, match="propose: org/nobody: there is no such repository"):
        run("org/nobody")
