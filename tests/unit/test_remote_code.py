"""Repositories' own code, from a local hub: run only where it is pinned, and only as it was pinned."""

import hashlib
import json
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.commands.resolve import resolve_trajectory
from scripts.fetch import fetch, fetch_checkpoint
from scripts.fetch_tokenizer import fetch_tokenizer
from scripts.lib.hub import client, locks
from scripts.lib.models import loadable, own_code
from scripts.lib.models.blockwise import Blockwise
from scripts.lib.models.loading import load_dense, load_empty, load_tokenizer
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study.plan import Plan, load_plan
from scripts.lib.study.trajectories.published import require_pins
from scripts.publish import publish
from scripts.quantize import quantize
from tests.hub import connect
from tests.hub.server import Hub
from tests.tools import add_trajectory

REPO = "org/own"
CODE = {
    "configuration_own.py": """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own_llama"
""",
    "modeling_own.py": """
from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output
""",
    "modeling_other.py": "raise SystemExit('not to be run')",
}
PINS = {name: hashlib.sha256(CODE[name].encode()).hexdigest() for name in ("configuration_own.py", "modeling_own.py")}
REFERENCES = {
    "AutoConfig": "org/own--configuration_own.OwnConfig",
    "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
    "AutoModelForSequenceClassification": "modeling_other.Other",
}
DRAW = np.random.default_rng(0)
CALIBRATION, PROBE = DRAW.integers(1, 64, size=(16, 32)), DRAW.integers(1, 64, size=(4, 32))


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_tokenizer):
    """A repository: a Llama whose class only its own code has."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=64, max_position_embeddings=64, **shape)
    folder = tmp_path_factory.mktemp("own")
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(found["config.json"]) | {"model_type": "own_llama", "auto_map": REFERENCES}
    found["config.json"] = json.dumps(config | {"architectures": ["OwnForCausalLM"]}).encode()
    tokenizer = json.loads(found["tokenizer_config.json"]) | {"auto_map": {"AutoTokenizer": ["modeling_other.T", None]}}
    found["tokenizer_config.json"] = json.dumps(tokenizer).encode()
    return found | {name: text.encode() for name, text in CODE.items()}


@pytest.fixture
def server(tmp_path, monkeypatch, files):
    with Hub(tmp_path / "hub") as server:
        server.add(REPO, "main", files)
        connect(server, monkeypatch)
        yield server


@pytest.fixture
def take(server, tmp_path):
    """A function that fetches the repository with some pins and gives the checkpoint's folder."""
    places = (str(tmp_path / "tokenizer"), str(tmp_path / "tokenizer.json"))
    fetch_tokenizer(REPO, None, tmp_path / "tokenizer-state", "own", *places)

    def run(pins, resolved=None):
        resolved = resolved or client.resolve(REPO, "main", partial(client.model_files, code=pins))
        fetch(resolved, tmp_path / "tokenizer", tmp_path / "state", tmp_path / "model", pins)
        return tmp_path / "model"

    return run


def run_method(name, model, tmp_path):
    with open(f"config/recipes/{name}.yaml") as file:
        recipe = yaml.safe_load(file)
    recipe |= {"group_size": 16} if recipe.get("group_size", -1) > 0 else {}
    data = CALIBRATION if "calibration" in recipe else None
    return quantize(model, recipe, data, PROBE, tmp_path / "quantized", tmp_path / "layers.parquet")


def test_it_runs_block_by_block_too(take):
    """What it does with its logits is its own."""
    model, ids = take(PINS), torch.from_numpy(PROBE)
    streamed = Blockwise(model, "float32", "cpu")
    with torch.inference_mode():
        whole = load_dense(model)(input_ids=ids, use_cache=False).logits
    assert torch.equal(streamed.logits(ids, streamed.states(PROBE, len(PROBE))), whole)


def asked(server):
    return {address.rpartition("/")[2] for _, address, *_ in server.requests if "/resolve/" in address}


def test_pinned_code_is_fetched_and_run(server, take):
    model = take(PINS)
    assert {path.name for path in model.glob("*.py")} == set(PINS)
    assert "modeling_other.py" not in asked(server)
    config = json.loads((model / "config.json").read_text())
    local = {"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    assert config["auto_map"] == local
    assert type(load_empty(model)).__name__ == type(load_dense(model)).__name__ == "OwnForCausalLM"
    assert load_tokenizer(model)("w5 w7").input_ids == [5, 7]
    assert "auto_map" not in json.loads((model / "tokenizer_config.json").read_text())


def test_pinned_code_is_not_run_to_judge_a_checkpoint(take, monkeypatch):
    model = take(PINS)
    monkeypatch.setattr(loadable, "load_empty", None)
    loadable.require_loadable(model)


@pytest.mark.parametrize("method", ["rtn-w3-g64", "nf4", "gptq-w3-g64", "fp8"])
def test_a_quantized_model_carries_its_code(take, tmp_path, new_process, method):
    """Through the real gate, in a new process: one library of each way to load a model."""
    result = run_method(method, take(PINS), tmp_path)
    assert result["status"] == "ok", result["reason"]
    assert own_code.pinned(tmp_path / "quantized") == PINS
    assert type(load_dense(tmp_path / "quantized")).__name__ == "OwnForCausalLM"
    assert {own_code.MARKER, *PINS} <= result["files"].keys()


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ("awq-w4-g64-asym", "awq does not know the blocks of models that run by code"),
        ("gptq-w4-g128-natural-autogptq", "auto-gptq .* transformers 4"),
    ],
)
def test_what_does_not_suit_own_code_is_refused(take, tmp_path, method, reason):
    result = run_method(method, take(PINS), tmp_path)
    assert result["status"] == "refused"
    assert re.search(reason, result["reason"])


def test_other_code_than_was_pinned_is_refused(server, take, files, tmp_path):
    server.move(REPO, "main", files | {"modeling_own.py": b"raise SystemExit"})
    with pytest.raises(client.Unavailable) as refused:
        take(PINS)
    found = hashlib.sha256(b"raise SystemExit").hexdigest()
    for part in ("modeling_own.py", found, PINS["modeling_own.py"], "read the file at that commit"):
        assert part in str(refused.value)
    assert "model.safetensors" not in asked(server)
    assert not (tmp_path / "model").exists()
    server.move(REPO, "main", files)
    assert take(PINS).is_dir()  # the wrong file is not kept


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({}, "transformers has no class `own_llama`; own code is run only where `remote_code` of the trajectory pins"),
        ({"modeling_own.py": PINS["modeling_own.py"]}, r"modeling_own.py imports configuration_own.py; read and pin"),
        ({"configuration_own.py": PINS["configuration_own.py"]}, r"takes classes from modeling_own.py; read and pin"),
        (PINS | {"nowhere.py": "0" * 64}, r"has no nowhere.py, which `remote_code` of the trajectory pins"),
    ],
)
def test_code_that_is_not_pinned_is_refused(take, tmp_path, pins, message):
    with pytest.raises(client.Unavailable, match=message):
        take(pins)
    assert not (tmp_path / "model").exists()


def test_a_lock_from_before_the_pins_is_refused(server, take):
    with pytest.raises(client.Unavailable, match="is not locked; the lock was made before its code was pinned"):
        take(PINS, client.resolve(REPO, "main", client.model_files))


def test_pins_of_a_model_without_own_code_are_refused(server, take, files):
    config = json.loads(files["config.json"])
    del config["auto_map"]
    server.move(REPO, "main", files | {"config.json": json.dumps(config).encode()})
    with pytest.raises(client.Unavailable, match="names no class of its own for `own_llama`; take `remote_code` out"):
        take(PINS)


@pytest.mark.parametrize("references", [[1], 5, "x", {"AutoModelForCausalLM": 5}])
def test_references_that_are_none_refuse_a_checkpoint(server, take, tmp_path, files, references):
    config = json.loads(files["config.json"]) | {"auto_map": references}
    server.move(REPO, "main", files | {"config.json": json.dumps(config).encode()})
    resolved = client.resolve(REPO, "main", partial(client.model_files, code=PINS))
    places = tmp_path / "tokenizer", tmp_path / "state", tmp_path / "model"
    manifest = fetch_checkpoint(resolved, *places, PINS, {})
    assert manifest["status"] == "refused"
    assert re.match(rf"{REPO} at \w+: `auto_map` of config\.json (is|gives)", manifest["reason"]), manifest["reason"]


@pytest.mark.parametrize("load", [load_dense, load_empty, load_tokenizer])
@pytest.mark.parametrize("name", ["modeling_own.py", "more.py"])
def test_code_that_was_changed_later_is_not_run(take, tmp_path, load, name):
    model = take(PINS)
    (model / name).unlink(missing_ok=True)
    (model / name).write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match=f"{name}: not the code that was pinned"):
        load(model)
    with pytest.raises(ValueError, match="nothing of it is run"):
        run_method("rtn-w3-g64", model, tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_configs_may_name_no_other_code(take, name):
    model = take(PINS)
    config = json.loads((model / name).read_text()) | {"auto_map": {"AutoConfig": "org/evil--modeling_own.OwnConfig"}}
    (model / name).unlink()
    (model / name).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"`auto_map` names org/evil--modeling_own\.py"):
        load_dense(model)


def test_code_without_the_marker_is_not_run(take):
    model = take(PINS)
    (model / own_code.MARKER).unlink()
    (model / "configuration_own.py").unlink()
    (model / "configuration_own.py").write_text("raise SystemExit('run')")
    with pytest.raises(ValueError, match="contains custom code"):
        load_empty(model)


def test_a_users_folder_brings_no_marker(take, tmp_path):
    publish(take(PINS), tmp_path / "published", {})
    assert not own_code.pinned(tmp_path / "published")
    with pytest.raises(ValueError, match="contains custom code"):
        load_empty(tmp_path / "published")


TRAJECTORY = {
    "source": "hub",
    "repo": REPO,
    "model": {"architecture": "own_llama", "parameters": 100_000},
    "tokens_per_step": 1000,
    "revisions": {"verified": True, "named": {"main": 10}},
    "schedule": {"name": "constant", "peak": 0.001, "warmup": 0},
    "sources": [{"figures": ["schedule"], "source": "this test", "verified": True}],
}


def read(folder, **more):
    (folder / "own.yaml").write_text(yaml.safe_dump(TRAJECTORY | more))
    plan = Plan({"evaluate_loss": {"window": 32}})
    return add_trajectory(plan, "own", folder, "test").published(10)


def test_a_lock_has_the_pinned_code(server, tmp_path):
    read(tmp_path, remote_code=PINS)
    plan = Plan({"evaluate_loss": {"window": 32}})
    add_trajectory(plan, "own", tmp_path, "test")
    list(resolve_trajectory(plan, "own", [10], tmp_path, set()))
    code = {name for name in locks.read(tmp_path, "own")["revisions"]["main"]["files"] if name.endswith(".py")}
    assert code == set(PINS)


def test_the_pins_of_a_trajectory(tmp_path):
    assert read(tmp_path, remote_code=PINS)["remote_code"] == PINS
    assert read(tmp_path)["remote_code"] == {}


def test_code_that_is_not_pinned_can_be_planned_but_not_run():
    plan = load_plan("paper")
    with pytest.raises(ConfigError, match=r"trajectory `open-sci-1.7b`: `remote_code`: .* and none is pinned: read"):
        require_pins(plan.trajectories)
    plan.trajectories["open-sci-1.7b"] = replace(plan.trajectories["open-sci-1.7b"], remote_code=PINS)
    require_pins(plan.trajectories)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "`remote_code`: True is not of type 'object'"),
        ({"code/modeling.py": "0" * 64}, "`remote_code`: 'code/modeling.py' does not match"),
        ({"modeling.py": "0123"}, "`remote_code.modeling.py`: '0123' does not match"),
    ],
)
def test_pins_that_are_refused(tmp_path, value, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, remote_code=value)
