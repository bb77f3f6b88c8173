"""hqq: Half-Quadratic Quantization by the hqq package, layer by layer; needs no data. Saved dense."""

import time
from pathlib import Path

import numpy as np
import torch
from hqq.core import optimize
from hqq.core.quantize import Quantizer

from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import block_linears, load_dense
from scripts.quantizers import Quantized, save_dense

ABOUT = {
    "package": "hqq",
    "stored": "dense",
    "algorithms": {
        "hqq": {
            "title": "Half-Quadratic Quantization",
            "description": "Half-Quadratic Quantization: zero points optimized without data.",
            "settings": {
                "bits": {"enum": [2, 3, 4, 8], "description": "Bits a weight."},
                "group_size": {
                    "type": "integer",
                    "minimum": 8,
                    "description": "Weights along a row that share one scale; divides the width.",
                },
            },
        },
    },
}

optimize.float16 = torch.float32  # in which it would optimize on a GPU, and only there
FLOATS = 32  # bits of a group's scale and zero point, both in half precision


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, device: str) -> Quantized:
    """Quantize with scales along rows (axis 1) whose zero points are optimized; in float32.

    Saved dense: transformers does not read the package's own files, which are pickles.
    """
    model = load_dense(model_folder, "float32")
    layers = block_linears(model)
    seconds = {}
    for name, layer in layers.items():
        start = time.monotonic()
        codes, meta = Quantizer.quantize(
            layer.weight.data,
            nbits=recipe["bits"],
            group_size=recipe["group_size"],
            optimize=True,
            axis=1,
            bitpack=False,
            compute_dtype=torch.float32,
            device=device,
        )
        layer.weight.data = Quantizer.dequantize(codes, meta).reshape(layer.weight.shape).float().cpu().contiguous()
        seconds[name] = time.monotonic() - start
    nominal = dict.fromkeys(layers, recipe["bits"] + FLOATS / recipe["group_size"])
    return save_dense(model, layers, Grid(recipe["bits"], recipe["group_size"], False), nominal, seconds)
