"""average: the mean of several models, tensor by tensor, and members that do not fit."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.average import average, averaged
from scripts.lib.models.loading import load_dense
from scripts.publish import describe


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


IDENTITY = {"trajectory": "mean", "checkpoint": "step-3", "source": "average"}


def described(members):
    """Manifests of checkpoints that are ok."""
    return [describe(folder, IDENTITY | {"checkpoint": f"step-{number}"}) for number, folder in enumerate(members)]


def test_like_members_are_averaged(members, tmp_path):
    manifest = averaged(members, described(members), tmp_path / "out", IDENTITY)
    assert manifest["status"] == "ok"
    assert manifest["members"] == [member["revision"] for member in described(members)]


def test_members_that_do_not_fit(members, tmp_path):
    path, manifests_of = members[1] / "model.safetensors", described(members)
    weights = load_file(path)
    name = sorted(weights)[0]
    shape = list(weights[name].shape)
    save_file(weights | {name: weights[name][:1].clone()}, path)
    manifest = averaged(members, manifests_of, tmp_path / "out", IDENTITY)
    assert manifest["status"] == "refused"
    said = f"tensor {name} has the shape {[1, *shape[1:]]} in step-1, and {shape} in step-0; only like models"
    assert manifest["reason"].startswith(said)
    assert list((tmp_path / "out").iterdir()) == []
    weights.pop(name)
    save_file(weights, path)
    manifest = averaged(members, manifests_of, tmp_path / "other", IDENTITY)
    assert manifest["reason"].startswith(f"step-1 has no tensor {name}, but step-2 has; only like models")


def test_a_refused_member_refuses_the_mean(members, tmp_path):
    first, *others = described(members)
    manifests_of = [first | {"status": "refused", "reason": "no model"}, *others]
    manifest = averaged(members, manifests_of, tmp_path / "out", IDENTITY)
    assert (manifest["status"], manifest["reason"]) == ("refused", "a member was refused: step-0, no model")
