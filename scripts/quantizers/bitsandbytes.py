"""bitsandbytes: 4-bit NormalFloat (nf4), 4-bit floats (fp4) and LLM.int8() (int8) through transformers."""

from pathlib import Path

import numpy as np
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from scripts.lib.models import own_code
from scripts.lib.models.grids import Grid
from scripts.lib.models.packed import dequantize_4bit
from scripts.quantizers import Quantized

ABOUT = {
    "package": "bitsandbytes",
    "stored": "packed",
    "algorithms": {
        "nf4": {
            "title": "4-bit NormalFloat",
            "description": "4-bit NormalFloat in blocks of 64, arXiv:2305.14314; through transformers.",
            "settings": {
                "double_quantization": {"type": "boolean", "description": "Whether the block scales are quantized too."}
            },
            "bits": 4,
            "group": 64,
        },
        "fp4": {
            "title": "4-bit float",
            "description": "4-bit floats in blocks of 64, arXiv:2305.14314; through transformers.",
            "settings": {
                "double_quantization": {"type": "boolean", "description": "Whether the block scales are quantized too."}
            },
            "bits": 4,
            "group": 64,
        },
        "int8": {
            "title": "LLM.int8()",
            "description": "8-bit integers, one scale a row, arXiv:2208.07339; activations stay as they are.",
            "bits": 8,
            "group": -1,
        },
    },
}

BLOCK = 64


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, device: str) -> Quantized:
    """Quantize while loading.

    To be saved before any forward pass: on some CPUs the first one repacks the weights, and what is saved then is
    corrupt.
    """
    if recipe["algorithm"] == "int8":
        config, grid = BitsAndBytesConfig(load_in_8bit=True), Grid(8, -1, True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=recipe["algorithm"],
            bnb_4bit_use_double_quant=recipe["double_quantization"],
            bnb_4bit_compute_dtype=torch.float32,
        )
        grid = Grid(4, BLOCK, False, across_rows=True)
    model = AutoModelForCausalLM.from_pretrained(
        model_folder,
        dtype=torch.float32,
        quantization_config=config,
        device_map={"": device},
        local_files_only=True,
        trust_remote_code=own_code.is_trusted(model_folder),
    )
    layers = {name: module for name, module in model.named_modules() if isinstance(module, (Linear4bit, Linear8bitLt))}

    def save(out: Path) -> None:
        model.save_pretrained(out)
        if not grid.across_rows or any(layer.in_features % BLOCK for layer in layers.values()):
            make_dense(model, layers)

    return Quantized(
        model=model,
        weights=lambda: ((name, dequantize(layer.weight)) for name, layer in layers.items()),
        save=save,
        format="bitsandbytes",
        grid=grid,
        save_first=True,
    )


def make_dense(model: nn.Module, layers: dict[str, nn.Module]) -> None:
    """Put dense layers in place: 8-bit ones also round activations; 4-bit ones fail on CPUs where blocks cross rows."""
    for name, layer in layers.items():
        dense = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
        dense.weight.data, dense.bias = dequantize(layer.weight).to(model.device), layer.bias
        model.set_submodule(name, dense)


def dequantize(weight) -> torch.Tensor:
    """Dense weight [out, in] of one of its parameters."""
    if hasattr(weight, "quant_state"):
        return dequantize_4bit(weight.data, weight.quant_state).float().cpu()
    return (weight.data.float() * weight.SCB.float().unsqueeze(1) / 127).cpu()
