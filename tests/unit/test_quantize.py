"""quantize: the grid of round-to-nearest, each library on both architectures, and broken saves that are caught."""

import shutil

import numpy as np
import pytest
import torch
import yaml
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import load_file, save_file

from scripts.lib.models import _dequantized_4bit, block_linears, load_dense
from scripts.quantize import check_grid, check_reload, draw_calibration, quantize
from scripts.quantizers import LIBRARIES, Refused, load_quantizer
from scripts.quantizers.rtn import round_to_nearest

RTN = {"algorithm": "rtn", "library": "rtn", "bits": 3, "group_size": 16, "symmetric": True}
CALIBRATION = np.random.default_rng(0).integers(1, 64, size=(16, 32))


def recipe(name):
    with open(f"config/recipes/{name}.yaml") as file:
        return yaml.safe_load(file)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_grid_has_at_most_two_to_the_bits_levels(bits, symmetric):
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(bits))
    rounded = round_to_nearest(weight, bits, 16, symmetric)
    for group in rounded.reshape(-1, 16):
        assert len(group.unique()) <= 2**bits
    step = (weight.reshape(-1, 16).abs().amax(1) * 2 / (2**bits - 1)).repeat_interleave(16).reshape(8, 64)
    assert ((rounded - weight).abs() <= step * 1.01).all()


def test_more_bits_less_error():
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    errors = [float((round_to_nearest(weight, bits, 16, True) - weight).norm()) for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)


def test_a_group_of_zeros_stays_zero():
    assert not round_to_nearest(torch.zeros(2, 16), 3, 16, False).any()


@pytest.mark.parametrize("name", ["rtn-w3-g32", "gptq-w3-g16", "nf4"])
def test_each_library_on_each_architecture(tiny_model, tmp_path, name):
    method = recipe(name)
    data = CALIBRATION if "calibration" in method else None
    result = quantize(tiny_model, method, data, tmp_path / "model", "cpu")
    assert result["status"] == "ok", result["reason"]
    names = set(block_linears(load_dense(tiny_model)))
    assert {layer["name"] for layer in result["layers"]} == names
    assert 0 < result["weight_error"] < 0.5
    assert 3 < result["bits_per_weight"] < 7
    before, after = load_dense(tiny_model).state_dict(), load_dense(tmp_path / "model").state_dict()
    for key in before:
        changed = key.removesuffix(".weight") in names
        assert torch.equal(before[key], after[key]) != changed, key


def test_twice_gives_identical_weights(tiny_model, tmp_path):
    results = [quantize(tiny_model, recipe("gptq-w3-g16"), CALIBRATION, tmp_path / str(i), "cpu") for i in range(2)]
    assert results[0]["revision"] == results[1]["revision"]


def test_a_group_size_that_does_not_fit_is_refused(tiny_model, tmp_path):
    result = quantize(tiny_model, RTN | {"group_size": 48}, None, tmp_path / "model", "cpu")
    assert result["status"] == "refused"
    assert "group_size 48" in result["reason"]
    assert list((tmp_path / "model").iterdir()) == []


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A correct round-to-nearest model and its weights in memory, for tests to break."""
    result = load_quantizer("rtn")(tiny_model, RTN, None, tmp_path / "q", "cpu")
    return tiny_model, tmp_path / "q", result["dense"]


def change(folder, edit):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_a_correct_save_passes(saved):
    source, folder, dense = saved
    assert len(check_reload(source, folder, dense)) == len(dense)


def test_a_changed_quantized_weight_is_caught(saved):
    source, folder, dense = saved
    name = next(iter(dense))
    change(folder, lambda tensors: tensors[f"{name}.weight"].mul_(1.5))
    with pytest.raises(Refused, match=name):
        check_reload(source, folder, dense)


def test_a_changed_dense_tensor_is_caught(saved):
    source, folder, dense = saved
    change(folder, lambda tensors: tensors[next(k for k in tensors if "embed" in k)].add_(1e-3))
    with pytest.raises(Refused, match="was to stay as it is"):
        check_reload(source, folder, dense)


def test_a_missing_tensor_is_caught(saved):
    source, folder, dense = saved
    change(folder, lambda tensors: tensors.pop(f"{next(iter(dense))}.weight"))
    with pytest.raises(Refused, match="does not reload"):
        check_reload(source, folder, dense)


def test_a_truncated_file_is_caught(saved):
    source, folder, dense = saved
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Refused, match="does not reload"):
        check_reload(source, folder, dense)


def test_weights_that_are_not_finite_are_refused(tiny_model, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    change(folder, lambda tensors: tensors[next(k for k in tensors if "mlp" in k)].fill_(float("nan")))
    assert quantize(folder, RTN, None, tmp_path / "model", "cpu")["status"] == "refused"


def test_calibration_is_drawn_by_its_seed(token_stream):
    settings = {"samples": 8, "window": 16, "seed": 3}
    once, twice = draw_calibration(token_stream, settings), draw_calibration(token_stream, settings)
    assert once.shape == (8, 16)
    assert np.array_equal(once, twice)
    assert not np.array_equal(once, draw_calibration(token_stream, settings | {"seed": 4}))
    with pytest.raises(ValueError, match="asks for 100000"):
        draw_calibration(token_stream, settings | {"samples": 100_000})


@pytest.mark.parametrize("shape", [(64, 128), (128, 96), (96, 96), (32, 64)])
@pytest.mark.parametrize("double", [False, True])
def test_nf4_dequantizes_right_at_every_width(shape, double):
    """bitsandbytes' own CPU kernel is wrong where 64 does not divide the width; ours must not be."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    data, state = quantize_4bit(weight.clone(), quant_type="nf4", blocksize=64, compress_statistics=double)
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    expected = state.code[((blocks / scale).unsqueeze(-1) - state.code).abs().argmin(-1)] * scale
    found = _dequantized_4bit(data, state).reshape(-1, 64)
    assert torch.allclose(found, expected, atol=0.02 if double else 1e-6)


def test_too_many_levels_are_caught():
    weight = round_to_nearest(torch.randn(8, 64, generator=torch.Generator().manual_seed(0)), 3, 16, True)
    check_grid({"layer": weight}, 3, 16, in_order=True)
    check_grid({"layer": weight[:, torch.randperm(64)]}, 3, 16, in_order=False)
    with pytest.raises(Refused, match="layer has"):
        check_grid({"layer": weight}, 2, 16, in_order=True)
    with pytest.raises(Refused, match="layer has"):
        check_grid({"layer": weight}, 3, 32, in_order=True)


def test_every_library_of_a_recipe_exists():
    assert set(LIBRARIES) == {"rtn", "gptqmodel", "bitsandbytes"}
    with pytest.raises(KeyError, match="no quantizer"):
        load_quantizer("auto-gptq")
