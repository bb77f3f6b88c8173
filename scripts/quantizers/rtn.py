"""rtn: round-to-nearest, this project's own reference grids; needs no data. Saved dense, in float32."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import block_linears, load_dense
from scripts.quantizers import Quantized, save_dense

ABOUT = {
    "stored": "dense",
    "algorithms": {
        "rtn": {
            "title": "round-to-nearest",
            "description": "Round to nearest on this project's own reference grid.",
            "settings": {
                "bits": {"enum": [2, 3, 4, 5, 6, 7, 8], "description": "Bits a weight."},
                "group_size": "group_size",
                "symmetric": "symmetric",
                "transform": "transform",
                "calibration": "calibration",
            },
            "optional": ["transform", "calibration"],
            "together": ["transform", "calibration"],
        },
        "fp6": {
            "title": "FP6",
            "description": "FP6 E3M2 of the OCP Microscaling Formats, on this project's own reference grid.",
            "settings": {"group_size": "group_size"},
            "bits": 6,
        },
    },
}

SCALE_BITS = 16


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, device: str) -> Quantized:
    """Round the linear layers of all decoder blocks to an integer grid (`rtn`) or to 6-bit floats (`fp6`)."""
    model = load_dense(model_folder, "float32")
    layers = block_linears(model)
    seconds = {}
    for name, layer in layers.items():
        start = time.monotonic()
        weight = layer.weight.data.to(device)
        if recipe["algorithm"] == "fp6":
            layer.weight.data = round_to_floats(weight, recipe["group_size"]).cpu()
        else:
            bits, group_size, symmetric = recipe["bits"], recipe["group_size"], recipe["symmetric"]
            layer.weight.data = round_to_nearest(weight, bits, group_size, symmetric).cpu()
        seconds[name] = time.monotonic() - start
    grid = Grid(recipe.get("bits", 6), recipe["group_size"], recipe.get("symmetric", True))
    return save_dense(model, layers, grid, nominal_bits(grid, layers), seconds)


def round_to_nearest(weight: torch.Tensor, bits: int, group_size: int, symmetric: bool) -> torch.Tensor:
    """Weights moved to the nearest point of a grid of 2^bits levels a group; same shape [out, in] and dtype.

    The grid is GPTQ's (arXiv:2210.17323, reference code): the range always holds zero; symmetric grids reach from -m to
    m for the largest magnitude m. scale = range / (2^bits - 1), and zero is a whole level.

    Args:
        group_size: weights along a row that share a scale; -1 for the whole row.
    """
    groups = weight.reshape(-1, weight.shape[1] if group_size == -1 else group_size)
    low = groups.amin(dim=1, keepdim=True).clamp(max=0)
    high = groups.amax(dim=1, keepdim=True).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        low = -high
    levels = 2**bits - 1
    scale = ((high - low) / levels).where(high > low, torch.ones_like(high))
    zero = torch.full_like(scale, (levels + 1) / 2) if symmetric else torch.round(-low / scale)
    codes = torch.clamp(torch.round(groups / scale) + zero, 0, levels)
    return ((codes - zero) * scale).reshape(weight.shape)


def round_to_floats(weight: torch.Tensor, group_size: int) -> torch.Tensor:
    """Weights moved to the nearest value of FP6 E3M2, scaled so that a group's largest magnitude is its largest value.

    E3M2 as in the OCP Microscaling Formats specification 1.0: bias 3, no infinities, subnormals; its magnitudes are 0,
    1/16, ..., 28. No pinned library quantizes to it on a CPU. Same shape [out, in] and dtype.
    """
    magnitudes = torch.tensor(
        [mantissa / 16 for mantissa in range(4)]
        + [(1 + mantissa / 4) * 2.0 ** (exponent - 3) for exponent in range(1, 8) for mantissa in range(4)],
        dtype=weight.dtype,
        device=weight.device,
    )
    groups = weight.reshape(-1, weight.shape[1] if group_size == -1 else group_size)
    scale = groups.abs().amax(dim=1, keepdim=True) / magnitudes[-1]
    scale = scale.where(scale > 0, torch.ones_like(scale))
    middles = (magnitudes[1:] + magnitudes[:-1]) / 2
    nearest = magnitudes[torch.bucketize(groups.abs() / scale, middles)]
    return (nearest * groups.sign() * scale).reshape(weight.shape)


def nominal_bits(grid: Grid, layers: dict[str, nn.Linear]) -> dict[str, float]:
    """Bits a weight of each layer if codes were packed: with a 16-bit scale a group and, where the grid is not
    symmetric, a zero point of as many bits as a code."""
    found = {}
    for name, layer in layers.items():
        bits, size = grid.bits_of(name), layer.in_features if grid.group_size == -1 else grid.group_size
        found[name] = bits + (SCALE_BITS + (0 if grid.symmetric else bits)) / size
    return found
