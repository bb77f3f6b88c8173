"""average: means of several models by every scheme, the memory that they take, and members that do not fit."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from scripts.average import averaged
from scripts.lib.models import averaging
from scripts.lib.models.averaging import average
from scripts.lib.models.loading import load_dense
from scripts.lib.models.weighing import by_loss, fisher, greedy
from scripts.publish import describe
from tests.tools import ROOT


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
LAWA = {"average": "lawa", "weights": [1.0, 1.0, 1.0]}


def described(members):
    """Manifests of checkpoints that are ok."""
    return [describe(folder, IDENTITY | {"checkpoint": f"step-{number}"}) for number, folder in enumerate(members)]


def test_like_members_are_averaged(members, tmp_path):
    manifest = averaged(members, described(members), tmp_path / "out", IDENTITY, LAWA)
    assert manifest["status"] == "ok"
    assert manifest["members"] == [member["revision"] for member in described(members)]


def test_members_that_do_not_fit(members, tmp_path):
    path, manifests_of = members[1] / "model.safetensors", described(members)
    weights = load_file(path)
    name = sorted(weights)[0]
    shape = list(weights[name].shape)
    save_file(weights | {name: weights[name][:1].clone()}, path)
    manifest = averaged(members, manifests_of, tmp_path / "out", IDENTITY, LAWA)
    assert manifest["status"] == "refused"
    said = f"tensor {name} has the shape {[1, *shape[1:]]} in step-1, and {shape} in step-0; only like models"
    assert manifest["reason"].startswith(said)
    assert list((tmp_path / "out").iterdir()) == []
    weights.pop(name)
    save_file(weights, path)
    manifest = averaged(members, manifests_of, tmp_path / "other", IDENTITY, LAWA)
    assert manifest["reason"].startswith(f"step-1 has no tensor {name}, but step-2 has; only like models")


def test_a_refused_member_refuses_the_mean(members, tmp_path):
    first, *others = described(members)
    manifests_of = [first | {"status": "refused", "reason": "no model"}, *others]
    manifest = averaged(members, manifests_of, tmp_path / "out", IDENTITY, LAWA)
    assert (manifest["status"], manifest["reason"]) == ("refused", "a member was refused: step-0, no model")


# --- every scheme against a few lines that hold all members at once ---------------------------------------------------

WINDOWS = np.random.default_rng(0).integers(1, 64, size=(3, 16))


def loaded(folder):
    return load_file(folder / "model.safetensors")


def weighted(members, weights):
    """The weighted mean of all tensors, in float64."""
    states = [loaded(folder) for folder in members]
    return {
        name: sum(weight * state[name].double() for weight, state in zip(weights, states, strict=True)) / sum(weights)
        for name in states[0]
    }


def losses(folders):
    """Of each folder the mean loss on WINDOWS, by transformers' own loss."""
    ids = torch.from_numpy(WINDOWS)
    models = [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]
    with torch.inference_mode():
        return [model(input_ids=ids, labels=ids).loss.item() for model in models]


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.allclose(expected[name].to(tensor.dtype), rtol=1e-6, atol=1e-7), name


def made(members, out, weighing, windows=None):
    manifest = averaged(members, described(members), out, IDENTITY, weighing, windows)
    assert manifest["status"] == "ok", manifest
    assert not out.with_name("weighing").exists()
    return manifest, loaded(out)


@pytest.fixture
def near(members):
    """Members that differ so little that their means are models."""
    first = loaded(members[0])
    for folder in members[1:]:
        weights = {name: first[name] + 0.3 * (tensor - first[name]) for name, tensor in loaded(folder).items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return members


def test_a_moving_average_has_the_weights_of_its_half_life(members, tmp_path):
    weights = [0.25, 0.5, 1.0]
    manifest, found = made(members, tmp_path / "out", {"average": "ema", "weights": weights})
    assert manifest["weights"] == weights
    equal(found, weighted(members, weights))


def test_a_weight_falls_with_the_loss(near, tmp_path):
    manifest, found = made(near, tmp_path / "out", {"average": "metric", "penalty": 5.0}, WINDOWS)
    expected = [loss**-5.0 for loss in losses(near)]
    assert manifest["losses"] == pytest.approx(losses(near), rel=1e-5)
    assert manifest["weights"] == pytest.approx([weight / max(expected) for weight in expected], rel=1e-4)
    equal(found, weighted(near, manifest["weights"]))
    assert by_loss([2.0, 4.0], 0.0) == [1.0, 1.0]


def test_fisher_weights_are_squared_gradients(near, tmp_path):
    made(near, tmp_path / "out", {"average": "fisher"}, WINDOWS)
    above, below = {}, {}
    for folder in near:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        squares = {name: 1e-20 for name, _ in model.named_parameters()}
        for window in torch.from_numpy(WINDOWS):
            model.zero_grad()
            model(input_ids=window[None], labels=window[None]).loss.backward()
            squares |= {name: squares[name] + w.grad.double() ** 2 / 3 for name, w in model.named_parameters()}
        for name, weight in model.named_parameters():
            above[name] = above.get(name, 0) + squares[name] * weight.detach().double()
            below[name] = below.get(name, 0) + squares[name]
    mean = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for name, weight in mean.named_parameters():
        assert weight.allclose((above[name] / below[name]).float(), rtol=1e-4, atol=1e-5), name


def test_fisher_information_has_the_names_and_shapes_of_the_weights(tiny_model, tmp_path):
    found, weights = loaded(fisher(tiny_model, WINDOWS, tmp_path / "fisher", "cpu")), loaded(tiny_model)
    assert {name: tensor.shape for name, tensor in found.items()} == {n: tensor.shape for n, tensor in weights.items()}
    assert all((tensor >= 0).all() for tensor in found.values())


def test_weights_that_the_text_says_nothing_of_get_the_plain_mean(members, tmp_path):
    _, found = made(members, tmp_path / "out", {"average": "fisher"}, WINDOWS)
    name = next(name for name in found if "embed_in" in name or "embed_tokens" in name)
    unseen = [token for token in range(64) if token not in WINDOWS]
    assert found[name][unseen].allclose(weighted(members, [1, 1, 1])[name][unseen].float())


def test_a_greedy_soup_keeps_what_does_not_raise_the_loss(near, tmp_path):
    manifest, found = made(near, tmp_path / "out", {"average": "greedy"}, WINDOWS)
    own = losses(near)
    first, *others = sorted(range(3), key=lambda number: own[number])
    chosen, least = [first], own[first]
    for candidate in others:
        average([near[number] for number in sorted([*chosen, candidate])], tmp_path / f"tried-{candidate}")
        (loss,) = losses([tmp_path / f"tried-{candidate}"])
        if loss <= least:
            chosen, least = [*chosen, candidate], loss
    assert manifest["weights"] == [float(number in chosen) for number in range(3)]
    equal(found, weighted(near, manifest["weights"]))


def test_a_greedy_soup_tries_the_best_first():
    asked = []

    def loss(chosen):
        asked.append(chosen)
        return {(1, 3): 1.0, (0, 1, 3): 1.5, (1, 2, 3): 0.9}[tuple(chosen)]

    assert greedy([3.0, 1.0, 3.0, 2.0], loss) == [0.0, 1.0, 1.0, 1.0]
    assert asked == [[1, 3], [0, 1, 3], [1, 2, 3]]


def test_a_member_without_a_loss_refuses_the_mean(members, tmp_path):
    broken = {name: tensor * float("nan") for name, tensor in loaded(members[1]).items()}
    save_file(broken, members[1] / "model.safetensors", metadata={"format": "pt"})
    for weighing in ({"average": "metric", "penalty": 1.0}, {"average": "greedy"}):
        manifest = averaged(members, described(members), tmp_path / "out", IDENTITY, weighing, WINDOWS)
        assert manifest["reason"] == "the loss of step-1 on calibration text is nan: leave that member out"
    manifest = averaged(members, described(members), tmp_path / "out", IDENTITY, weighing, np.ones((1, 99), int))
    assert "reads 64 tokens at most" in manifest["reason"]


@pytest.fixture
def certain(members):
    """Members of one word, whose loss is 0, as a hub's tokenizer of one entry makes them: nothing else can follow."""
    for folder in members:
        model = load_dense(folder)
        model.resize_token_embeddings(1)
        model.save_pretrained(folder)
    return members


@pytest.mark.parametrize("weighing", [{"average": "metric", "penalty": 1.0}, {"average": "greedy"}])
def test_a_loss_of_zero_weighs_nothing(certain, tmp_path, weighing):
    manifest = averaged(certain, described(certain), tmp_path / "out", IDENTITY, weighing, np.zeros((2, 16), int))
    assert manifest["status"] == "refused"
    assert manifest["reason"] == "the loss of step-0 on calibration text is 0: leave that member out"


def test_an_average_may_be_averaged(members, tmp_path):
    average(members[:2], tmp_path / "mean")
    average([tmp_path / "mean", members[2]], tmp_path / "out", [2.0, 1.0])
    equal(loaded(tmp_path / "out"), weighted(members, [1, 1, 1]))


def test_types_are_those_of_the_newest_member(members, tmp_path):
    for number, folder in enumerate(members):
        weights = {name: tensor.bfloat16() if number == 2 else tensor for name, tensor in loaded(folder).items()}
        save_file(weights | {"count": torch.tensor(number)}, folder / "model.safetensors", metadata={"format": "pt"})
    average(members, tmp_path / "out")
    found = loaded(tmp_path / "out")
    assert found.pop("count") == 2
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_a_file_is_not_opened_for_each_of_its_tensors(members, tmp_path, monkeypatch):
    opened, plain = [], averaging.safe_open
    monkeypatch.setattr(averaging, "safe_open", lambda path, *args, **kwargs: opened.append(path) or plain(path, "pt"))
    average(members, tmp_path / "out")
    assert len(opened) <= 2 * len(members) + 1


# --- memory -----------------------------------------------------------------------------------------------------------

SIZE = 50_000_000  # bytes of a model
PEAK = """
import re, sys
from pathlib import Path
from scripts.lib.models.averaging import average
folder, times = Path(sys.argv[1]), int(sys.argv[2])
def memory(which):
    return 1024 * int(re.search(which + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = memory("VmRSS")
average([folder / str(number % 2) for number in range(times)], folder / f"mean-{times}")
print(memory("VmHWM") - before)
"""


def test_many_members_need_no_more_memory_than_two(tmp_path):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        draw = torch.Generator().manual_seed(number)
        rows = {f"layer.{layer}": 1000 for layer in range(5)} | {"embedding": 5000}
        tensors = {name: torch.randn(count, SIZE // 40_000, generator=draw) for name, count in rows.items()}
        save_file(tensors, tmp_path / str(number) / "model.safetensors", metadata={"format": "pt"})

    def peak(times):
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(times)]
        return int(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)

    few, many = peak(2), peak(40)
    print(f"peak beside what Python takes: {few:,} bytes for 2 members, {many:,} for 40, of {SIZE:,} each")
    assert many <= 2 * SIZE
    assert many <= few + SIZE / 2
