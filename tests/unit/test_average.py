"""average: the mean of several models, tensor by tensor, and members that do not fit."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.average import average
from scripts.lib.models.loading import load_dense


@pytest.fixture
def members(tiny_model, tmp_path):
    """Three copies of a model with weights of their own."""
    folders = []
    for number in range(3):
        folder = tmp_path / str(number)
        shutil.copytree(tiny_model, folder)
        draw = torch.Generator().manual_seed(number)
        weights = load_file(tiny_model / "model.safetensors")
        weights = {name: torch.randn(tensor.shape, generator=draw) for name, tensor in weights.items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        folders.append(folder)
    return folders


def test_it_is_the_mean(members, tmp_path):
    average(members, tmp_path / "out")
    stacks = [load_file(folder / "model.safetensors") for folder in members]
    mean = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in mean.items():
        expected = torch.stack([stack[name].double() for stack in stacks]).mean(0).float()
        assert torch.equal(tensor, expected)
    load_dense(tmp_path / "out")


def test_the_mean_of_equals_is_the_same(members, tmp_path):
    average([members[0]] * 3, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors").keys()
    for name, tensor in load_file(members[0] / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "out" / "model.safetensors")[name], tensor)


def test_members_that_do_not_fit(members, tmp_path):
    path = members[1] / "model.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    save_file(weights | {name: weights[name][:1].clone()}, path)
    with pytest.raises(ValueError, match="has shape"):
        average(members, tmp_path / "out")
    weights.pop(name)
    save_file(weights, path)
    with pytest.raises(ValueError, match="has no tensor"):
        average(members, tmp_path / "out")
    assert not (tmp_path / "out").exists()
