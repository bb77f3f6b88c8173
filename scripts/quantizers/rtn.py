"""rtn: round-to-nearest on a uniform grid, one scale for each group of weights along a row; needs no data."""

from pathlib import Path

import numpy as np
import torch

from scripts.lib.models import block_linears, load_dense
from scripts.quantizers import Refused


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, out: Path, device: str) -> dict:
    """Round the linear layers of all decoder blocks and save the model with the rounded weights, dense, in float32.

    Stored scales (and zero points, if not symmetric) count 16 bits and `bits` bits a group in `bits_per_weight`; the
    files themselves hold dense weights.

    Raises:
        Refused: the group size does not divide the width of a layer.
    """
    bits, group_size, symmetric = recipe["bits"], recipe["group_size"], recipe["symmetric"]
    model = load_dense(model_folder, "float32")
    dense = {}
    for name, layer in block_linears(model).items():
        if layer.in_features % group_size:
            raise Refused(f"group_size {group_size} does not divide the width {layer.in_features} of {name}")
        weight = layer.weight.data.to(device)
        dense[name] = round_to_nearest(weight, bits, group_size, symmetric).cpu()
        layer.weight.data = dense[name]
    model.save_pretrained(out)
    overhead = (16 + (0 if symmetric else bits)) / group_size
    grid = {"bits": bits, "group_size": group_size, "symmetric": symmetric, "bits_per_weight": bits + overhead}
    return grid | {"format": "dense", "dense": dense}


def round_to_nearest(weight: torch.Tensor, bits: int, group_size: int, symmetric: bool) -> torch.Tensor:
    """Weights moved to the nearest point of a grid of 2^bits levels a group; same shape [out, in] and dtype.

    The grid is GPTQ's (arXiv:2210.17323, reference code): the range always holds zero; symmetric grids reach from -m to
    m for the largest magnitude m. scale = range / (2^bits - 1), and zero is a whole level.
    """
    groups = weight.reshape(-1, group_size)
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
