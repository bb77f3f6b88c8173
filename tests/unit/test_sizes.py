"""Bytes of models: packed, after zstd, and what stays."""

import numpy as np
import polars
import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts.lib.checks.gate import check_levels
from scripts.lib.checks.sizes import SAMPLE, model_sizes, zstd, zstd_bits
from scripts.lib.models.grids import Grid
from scripts.quantize import quantize

GRID = Grid(bits=4, group_size=32, symmetric=True)


def bits_of(codes: np.ndarray) -> float:
    """Bits a weight after zstd of a layer [rows, columns] with these codes and a scale of its own for each group."""
    scales = torch.rand(len(codes), codes.shape[1] // 32).repeat_interleave(32, dim=1) + 0.5
    weight = torch.tensor(codes, dtype=torch.float32) * scales
    return zstd_bits("layer", weight, GRID, check_levels("layer", weight, GRID, None), 4.5)


def test_zstd_counts_what_is_left():
    assert zstd(torch.zeros(1000)) < 40
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8))
    assert zstd(noise) == 1000
    assert zstd(torch.zeros(0)) == 0


def test_of_a_large_tensor_the_beginning_stands_for_all():
    pattern = torch.from_numpy(np.random.default_rng(0).integers(0, 16, 2 * SAMPLE).astype(np.uint8))
    assert zstd(pattern) == pytest.approx(2 * zstd(pattern[:SAMPLE]), abs=1)


def test_codes_shrink_to_about_their_entropy():
    generator = np.random.default_rng(0)
    even = generator.integers(-8, 8, (256, 256))
    assert bits_of(even) == pytest.approx(4.5, abs=0.1), "nothing to gain"
    normal = np.clip(np.round(2 * generator.standard_normal((256, 256))), -8, 7)
    _, counts = np.unique(normal, return_counts=True)
    entropy = -sum(count / normal.size * np.log2(count / normal.size) for count in counts)
    assert entropy + 0.5 <= bits_of(normal) < entropy + 0.5 + 0.15, "half a bit are scales"
    assert bits_of(np.zeros((256, 256))) < 0.6


def test_a_layer_is_never_larger_than_packed_and_more_codes_than_a_byte_are_left():
    weight = torch.tensor([[0.0, 1e-6, 1.0, 0.5]]).repeat(8, 8)
    steps = check_levels("layer", weight, GRID, None)
    assert steps.tolist() == pytest.approx([1e-6] * 8)
    assert zstd_bits("layer", weight, GRID, steps, 4.5) == 4.5


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
@pytest.mark.parametrize("half", [False, True])
def test_what_stays_counts_as_the_checkpoint_stores_it(tiny_model, tmp_path, half):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    for path in tiny_model.iterdir():
        (checkpoint / path.name).write_bytes(path.read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    if half:
        tensors = {name: tensor.half() for name, tensor in tensors.items()}
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    recipe = {"algorithm": "rtn", "library": "rtn", "bits": 3, "group_size": 16, "symmetric": True}
    probe = np.random.default_rng(0).integers(1, 64, size=(4, 32))
    result = quantize(checkpoint, recipe, None, probe, tmp_path / "model", tmp_path / "layers.parquet")
    layers = polars.read_parquet(tmp_path / "layers.parquet")

    width = 2 if half else 4
    weights = layers["weights"].sum()
    stay = sum(t.numel() for name, t in tensors.items() if name.removesuffix(".weight") not in result["layers"])
    sizes = result["sizes"]
    assert sizes["packed"] == weights * 4 // 8 + width * stay, "3 bits, and 16 for the scale of 16 weights"
    assert sizes["unquantized"] == width * (weights + stay)
    assert 0 < sizes["packed_zstd"] <= sizes["packed"]
    assert 0 < sizes["unquantized_zstd"] <= sizes["unquantized"]
    assert (layers["bits_per_weight_zstd"] <= layers["bits_per_weight"]).all()
    assert model_sizes(checkpoint, tmp_path / "model", layers) == sizes


@pytest.mark.parametrize(("tied", "stay"), [(False, 2 * (8 * 4 + 8 * 4 + 4)), (True, 2 * (8 * 4 + 4))])
def test_a_head_counts_where_it_is_no_copy_of_the_embedding(tmp_path, tied, stay):
    """A rotation sets the head apart; auto-gptq gives each layer a bias of zeros, which nobody has to store."""
    embedding, layer, norm = torch.rand(8, 4).half(), torch.rand(4, 4).half(), torch.ones(4).half()
    before = {"embedding.weight": embedding, "norm.weight": norm, "layer.weight": layer}
    after = {name: tensor.float() for name, tensor in before.items()}
    after |= {"head.weight": torch.rand(8, 4), "layer.bias": torch.zeros(4)}
    for folder, tensors in (("checkpoint", before), ("model", after)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(f'{{"tie_word_embeddings": {str(tied).lower()}}}')
        save_file(tensors, tmp_path / folder / "model.safetensors")
    layers = polars.DataFrame(
        {"layer": ["layer"], "weights": [16], "bits_per_weight": [4.5], "bits_per_weight_zstd": [4.0]}
    )
    sizes = model_sizes(tmp_path / "checkpoint", tmp_path / "model", layers)
    assert sizes["unquantized"] == 2 * (32 + 16 + 4)
    assert sizes["packed"] == 16 * 4.5 / 8 + stay
    assert sizes["packed_zstd"] <= sizes["packed"] - 1
