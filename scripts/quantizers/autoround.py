"""autoround: AutoRound, rounding learned by signed gradient descent block by block (arXiv:2309.05516). Saved dense."""

import contextlib
import tempfile
from pathlib import Path

import numpy as np
import torch
from auto_round import AutoRound

from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import block_linears, load_dense, load_tokenizer
from scripts.quantizers import Quantized, save_dense
from scripts.quantizers.rtn import nominal_bits

ABOUT = {
    "package": "auto-round",
    "stored": "dense",
    "algorithms": {
        "autoround": {
            "title": "AutoRound",
            "description": "Rounding learned by signed gradient descent, arXiv:2309.05516.",
            "settings": {
                "bits": {"enum": [2, 3, 4, 8], "description": "Bits a weight."},
                "group_size": "group_size",
                "symmetric": "symmetric",
                "iterations": {"type": "integer", "minimum": 1, "description": "Steps of gradient descent a block."},
                "calibration": "calibration",
            },
            "passes": 6,  # forward and backward of 8 windows, here of all: 3.6
            "each": "iteration",
        },
    },
}


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray, device: str) -> Quantized:
    """Learn the rounding and the clipping of all linear layers, in float32.

    Saved dense: its own files hold half precision for what is not quantized.

    Args:
        calibration: token windows [samples, window].
    """
    model = load_dense(model_folder, "float32")
    model.requires_grad_(True)
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it keeps a work space where it runs
        rounded, _ = AutoRound(
            model,
            load_tokenizer(model_folder),
            bits=recipe["bits"],
            group_size=recipe["group_size"],
            sym=recipe["symmetric"],
            iters=recipe["iterations"],
            seqlen=calibration.shape[1],
            nsamples=len(calibration),
            batch_size=min(8, len(calibration)),
            dataset=[torch.from_numpy(row[None].astype(np.int64)) for row in calibration],
            device_map=device,
            enable_torch_compile=False,
            low_cpu_mem_usage=False,
            amp=False,
            seed=recipe["calibration"]["seed"],
        ).quantize()
    rounded = rounded.to("cpu", torch.float32).eval().requires_grad_(False)
    layers, grid = block_linears(rounded), Grid(recipe["bits"], recipe["group_size"], recipe["symmetric"])
    return save_dense(rounded, layers, grid, nominal_bits(grid, layers))
