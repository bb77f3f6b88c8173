"""quantize: every method on two architectures, one of each library through the real gate, and what is refused."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.lib.checks.gate import Gate, judge
from scripts.lib.checks.layer_errors import LAYERS
from scripts.lib.data.windows import draw_windows
from scripts.lib.models.loading import block_linears, load_dense
from scripts.lib.runtime import manifests
from scripts.lib.runtime.shortages import Refused
from scripts.lib.study.libraries import libraries
from scripts.quantize import compare_functions, main, quantize
from scripts.quantizers import load_quantizer
from scripts.quantizers.support import refusal

RTN = {"algorithm": "rtn", "library": "rtn", "bits": 3, "group_size": 16, "symmetric": True}
DRAW = np.random.default_rng(0)
CALIBRATION, PROBE = DRAW.integers(1, 64, size=(16, 32)), DRAW.integers(1, 64, size=(4, 32))
ONE_OF_EACH = {
    "rtn": "rtn-w3-g32",
    "gptqmodel": "gptq-w3-g64",
    "llmcompressor": "gptq-w3-g64-natural-llmcompressor",
    "bitsandbytes": "nf4",
    "autoround": "autoround-w3-g64",
    "hqq": "hqq-w3-g64",
    "mixed": "mixed-w3-g64",
    "transforms": "awq-w4-g64-asym",
}


def recipe_file(name):
    """A shipped recipe."""
    with open(f"config/recipes/{name}.yaml") as file:
        return yaml.safe_load(file)


def recipe(name, **changes):
    """A shipped recipe, made to fit a tiny model."""
    content = recipe_file(name)
    small = {"group_size": 16} if content.get("group_size", -1) > 0 else {}
    small |= {"iterations": 5} if "iterations" in content else {}
    return content | small | changes


@pytest.fixture
def near_gate(monkeypatch):
    """The gate in this process: the same checks without the seconds of a new one."""
    monkeypatch.setattr(Gate, "__init__", lambda self, threads, device: None)
    monkeypatch.setattr(Gate, "__exit__", lambda self, *error: None)
    monkeypatch.setattr(Gate, "check", lambda self, request: judge(**request))


def run(model, method, tmp_path, **changes):
    method = recipe(method, **changes) if isinstance(method, str) else method
    data = CALIBRATION if "calibration" in method else None
    return quantize(model, method, data, PROBE, tmp_path / "model", tmp_path / "layers.parquet")


@pytest.mark.parametrize("library", ONE_OF_EACH)
def test_each_library_on_each_architecture(tiny_model, tmp_path, library, request):
    """On one of them through the real gate, in a process that imports all anew, which takes seconds."""
    request.getfixturevalue("new_process" if tiny_model.name == "llama" else "near_gate")
    result = run(tiny_model, ONE_OF_EACH[library], tmp_path)
    assert result["status"] == "ok", result["reason"]
    names = set(block_linears(load_dense(tiny_model)))
    assert set(result["layers"]) == names
    assert 0 < result["weight_error"] < 0.5
    assert 0 < result["output_error"] < 0.5
    assert 3 < result["bits_per_weight"] < 8
    assert abs(result["loss"]["memory"] - result["loss"]["reloaded"]) < 2e-3
    layers = polars.read_parquet(tmp_path / "layers.parquet")
    assert layers.schema == polars.Schema(LAYERS)
    assert set(layers["layer"]) == names
    assert layers.drop("seconds").null_count().sum_horizontal().item() == 0
    if "transform" not in recipe(ONE_OF_EACH[library]):
        before, after = load_dense(tiny_model).state_dict(), load_dense(tmp_path / "model").state_dict()
        for key in before:
            changed = key.removesuffix(".weight") in names
            assert torch.equal(before[key], after[key]) != changed, key


def test_hqq_optimizes_in_float32_on_a_gpu_too(monkeypatch):
    from hqq.core import optimize

    from scripts.quantizers import hqq  # noqa: F401, which sets it

    class Seen(Exception):
        pass

    def step(weight, *args):
        raise Seen(weight.dtype)

    monkeypatch.setattr(optimize, "optimize_weights_proximal_legacy_step", step)
    weight, scale = torch.ones(4, 4), torch.ones(4, 1)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, dtype, device: self.type(dtype))  # there is no GPU to go to
    monkeypatch.setattr(torch, "tensor", lambda value, **_: value)
    with pytest.raises(Seen, match=r"torch\.float32"):
        optimize.optimize_weights_proximal(weight, scale, scale, [0, 7], device="cuda")


def test_gptqmodel_is_told_where_to_quantize(tiny_model, monkeypatch):
    from gptqmodel import GPTQModel

    class Seen(Exception):
        pass

    def load(path, config, **kwargs):
        raise Seen(config.device, "device" in kwargs)

    monkeypatch.setattr(GPTQModel, "load", load)
    with pytest.raises(Seen, match=r"\('cuda', False\)"):
        load_quantizer("gptqmodel")(tiny_model, recipe("gptq-w3-g64"), CALIBRATION, "cuda")


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", ["gptq-w3-g64", "gptq-w3-g64-natural-llmcompressor"])
def test_gptq_at_all_bits(tiny_model, tmp_path, near_gate, name, bits):
    result = run(tiny_model, name, tmp_path, bits=bits)
    assert result["status"] == "ok", result["reason"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gptq-w3-g64", {"symmetric": False}),
        ("gptq-w4-channel", {}),
        ("gptq-w3-g64-act", {}),
        ("gptaq-w3-g64", {}),
        ("gptq-w3-g64-static-llmcompressor", {}),
        ("gptq-w3-g64-natural-llmcompressor", {"symmetric": False}),
        ("gptq-w3-g64-natural-llmcompressor", {"group_size": -1}),
        ("autoround-w3-g64", {"group_size": -1}),
        ("rtn-w4-channel", {}),
        ("fp4", {}),
        ("nf4", {"double_quantization": True}),
        ("int8", {}),
        ("mxfp4", {}),
        ("nvfp4", {}),
        ("fp8", {}),
        ("fp6", {}),
        ("smoothquant-w4-g64", {}),
        ("awq-gptq-w3-g64-natural-llmcompressor", {}),
    ],
)
def test_every_other_method_passes_the_gate(tiny_model, tmp_path, near_gate, name, changes):
    result = run(tiny_model, name, tmp_path, **changes)
    assert result["status"] == "ok", result["reason"]


@pytest.mark.parametrize("name", ["spinquant-w3-g64", "spinquant-gptq-w3-g64-natural-llmcompressor"])
def test_rotations_suit_only_models_with_rmsnorm(tiny_model, tmp_path, near_gate, name):
    result = run(tiny_model, name, tmp_path)
    if tiny_model.name == "llama":
        assert result["status"] == "ok", result["reason"]
        assert result["function_gap"] < 1e-4
    else:
        assert "rotations need an RMSNorm" in result["reason"]


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize(
    "name", ["rtn-w3-g32", "gptq-w3-g64", "gptq-w3-g64-natural-llmcompressor", "nf4", "awq-w4-g64-asym"]
)
def test_twice_gives_identical_weights(tiny_model, tmp_path, near_gate, name):
    revisions = set()
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        revisions.add(run(tiny_model, name, folder)["revision"])
    assert len(revisions) == 1


DIES = """
import os, signal, sys
from pathlib import Path
import numpy as np
import torch
from transformers import PreTrainedModel
torch.set_num_threads(1)  # so that the gate's process is a fork
from scripts.quantize import quantize
from tests.unit.test_quantize import PROBE, RTN
whole = PreTrainedModel.save_pretrained
def half(self, folder, **settings):
    whole(self, folder, **settings)
    path = Path(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    os.kill(os.getpid(), signal.SIGKILL)
PreTrainedModel.save_pretrained = half
quantize(Path(sys.argv[1]), RTN, None, PROBE, Path(sys.argv[2]) / "model", Path(sys.argv[2]) / "layers.parquet")
"""


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_save_that_is_killed_leaves_nothing_that_looks_like_a_result(tiny_model, tmp_path, near_gate):
    done = subprocess.run([sys.executable, "-c", DIES, tiny_model, tmp_path], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert (tmp_path / ".model.tmp" / "model.safetensors").stat().st_size == 1000
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "layers.parquet").exists()
    assert run(tiny_model, RTN, tmp_path)["status"] == "ok"
    assert not (tmp_path / ".model.tmp").exists()


def test_llama_quantize_that_is_not_built_is_refused(tiny_model, tmp_path, near_gate, monkeypatch):
    monkeypatch.setattr("scripts.quantizers.tools.ROOT", tmp_path)
    assert "multiples of 256" in run(tiny_model, "q4_k_m", tmp_path)["reason"]
    with pytest.raises(Refused, match="make llama-quantize"):
        load_quantizer("llamacpp")(tiny_model, recipe("q4_k_m"), None, "cpu")


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize("name", ["gptq-w3-g64", "autoround-w3-g64", "awq-w4-g64-asym"])
def test_a_relative_path_is_found(tiny_model, tmp_path, near_gate, monkeypatch, name):
    """Some libraries are run in another folder, because they write to where they are."""
    method = recipe(name)
    monkeypatch.chdir(tiny_model.parent)
    assert run(Path(tiny_model.name), method, tmp_path)["status"] == "ok"


def test_a_group_size_that_does_not_fit_is_refused(tiny_model, tmp_path, near_gate):
    result = run(tiny_model, RTN | {"group_size": 48}, tmp_path)
    assert result["status"] == "refused"
    assert "group_size 48" in result["reason"]
    assert list((tmp_path / "model").iterdir()) == []
    assert polars.read_parquet(tmp_path / "layers.parquet").is_empty()


def test_weights_that_are_not_finite_are_refused(tiny_model, tmp_path, near_gate):
    folder = shutil.copytree(tiny_model, tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors[next(k for k in tensors if "mlp" in k)].fill_(float("nan"))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert run(folder, RTN, tmp_path)["status"] == "refused"


@pytest.mark.parametrize(("factor", "reason"), [(1.1, "changes the model's function"), (torch.nan, "nan standard dev")])
def test_a_transform_that_changes_the_function_is_refused(tiny_model, tmp_path, factor, reason):
    assert compare_functions(tiny_model, tiny_model, PROBE, "cpu") == 0
    changed = load_dense(tiny_model)
    next(iter(block_linears(changed).values())).weight.data.mul_(factor)
    changed.save_pretrained(tmp_path / "changed")
    with pytest.raises(Refused, match=reason):
        compare_functions(tiny_model, tmp_path / "changed", PROBE, "cpu")


@pytest.mark.parametrize(
    ("algorithm", "model_type", "config", "reason"),
    [
        ("spinquant", "llama", {"hidden_size": 96, "num_attention_heads": 3}, "powers of two"),
        ("spinquant", "olmo2", {"hidden_size": 64, "num_attention_heads": 2}, "OLMo-2 has its norms after"),
        ("smoothquant", "olmo2", {}, "`olmo2` has none"),
        ("awq", "mamba", {}, "`mamba`"),
    ],
)
def test_pairs_that_do_not_go_together_have_a_reason(algorithm, model_type, config, reason):
    method = {"algorithm": "rtn", "library": "rtn", "group_size": -1, "transform": {"algorithm": algorithm}}
    assert reason in refusal(method, {"model_type": model_type} | config, {"layer": 64})


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_config_may_leave_out_what_a_transform_asks_for(tiny_model, tmp_path, near_gate):
    content = json.loads((tiny_model / "config.json").read_text())
    left = {key: value for key, value in content.items() if key not in ("num_attention_heads", "head_dim")}
    folder = shutil.copytree(tiny_model, tmp_path / "left-out")
    (folder / "config.json").write_text(json.dumps(left | {"hidden_size": 96, "num_key_value_heads": 1}))
    reason = run(folder, RTN | {"transform": {"algorithm": "spinquant"}}, tmp_path)["reason"]
    assert reason == "spinquant's Hadamard rotations need powers of two; hidden_size is 96"


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_tokenizer_that_cannot_be_saved_refuses_the_cell(tiny_model, tmp_path, near_gate):
    folder = shutil.copytree(tiny_model, tmp_path / "own")
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(content | {"chat_template": {"default": 5}}))
    assert run(folder, RTN, tmp_path)["reason"].startswith("the tokenizer fails on this model: ")


def test_experts_in_one_tensor_are_refused(tmp_path, tiny_tokenizer, near_gate):
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("olmoe", vocab_size=64, num_experts=4, num_experts_per_tok=2, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "moe")
    tiny_tokenizer.save_pretrained(tmp_path / "moe")
    assert "not linear layers" in run(tmp_path / "moe", RTN, tmp_path)["reason"]


def test_windows_are_drawn_by_their_seed(token_stream):
    settings = {"samples": 8, "window": 16, "seed": 3}
    once, twice = draw_windows(token_stream, settings), draw_windows(token_stream, settings)
    assert once.shape == (8, 16)
    assert np.array_equal(once, twice)
    assert not np.array_equal(once, draw_windows(token_stream, settings | {"seed": 4}))
    with pytest.raises(ValueError, match="100000 are asked for"):
        draw_windows(token_stream, settings | {"samples": 100_000})


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_a_draw_changes_the_calibration_text_alone_and_is_named(tiny_model, tmp_path, token_stream, near_gate):
    """As the rule calls it: another draw, or a run of another seed, gives other weights."""
    found = {}
    for draw, run_seed in ((1, None), (1, 1), (2, 1), (1, 2)):
        content = quantize_as_the_rule_does(tiny_model, tmp_path / f"{draw}-{run_seed}", token_stream, draw, run_seed)
        found[draw, run_seed] = content["revision"]
        assert content["status"] == "ok", content["reason"]
        assert (content["recipe_name"], content["draw"], content["run_seed"]) == ("gptq-w3-g64", draw, run_seed)
        assert content["seed"] == content["calibration"]["seed"] == 1
    assert found[1, None] == found[1, 1]
    assert len(set(found.values())) == 3


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize("tokens", [31, 32 * 7])
def test_a_text_with_too_few_windows_is_a_refused_cell(tiny_model, tmp_path, tokens):
    np.save(tmp_path / "tokens.npy", np.ones(tokens, dtype=np.uint16))
    content = quantize_as_the_rule_does(tiny_model, tmp_path / "cell", tmp_path / "tokens.npy", 1, None)
    assert content["status"] == "refused"
    assert f"tokens.npy has {tokens if tokens < 32 else 7} " in content["reason"]
    assert list((tmp_path / "cell/model").iterdir()) == []


def quantize_as_the_rule_does(model, folder, tokens, draw, run_seed):
    """Manifest of a cell, made by `main`."""
    folder.mkdir()
    method = recipe("gptq-w3-g64", calibration={"corpus": "mine", "samples": 8, "window": 32, "seed": 1})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(method))
    manifests.write(folder / "source.json", {"status": "ok", "revision": "0"})
    manifests.write(folder / "tokens.json", {"sha256": "0"})
    text = [folder / "tokens.json", tokens]
    names = {"recipe": folder / "recipe.yaml", "manifest": folder / "source.json", "weights": model}
    out = {"model": folder / "model", "layers": folder / "layers.parquet", "manifest": folder / "manifest.json"}
    drawn = {"recipe_name": "gptq-w3-g64", "draw": draw, "run_seed": run_seed}
    settings = {"threads": 1, "device": "cpu", "dtype": "float32", "text": drawn}
    job = SimpleNamespace(
        params=SimpleNamespace(**settings, probe={"samples": 4, "window": 32, "seed": 2}),
        wildcards={"trajectory": "run", "checkpoint": "step-1", "method": f"gptq-w3-g64@{draw}"},
        input=SimpleNamespace(**names, calibration=text, probe=text),
        output=SimpleNamespace(**out),
    )
    main(job)
    return manifests.read(out["manifest"])


def test_there_is_no_other_library():
    assert set(ONE_OF_EACH) - {"transforms"} == set(libraries()) - {"autogptq", "llamacpp"}
    with pytest.raises(KeyError, match="no quantizer"):
        load_quantizer("auto-gptq")
