"""bitsandbytes: 4-bit NormalFloat (nf4) through transformers."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from scripts.lib.models import decoder_blocks, dequantize_layers


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, out: Path, device: str) -> dict:
    """Quantize to nf4 while loading and save at once.

    Saved before any forward pass: on some CPUs the first one repacks the weights, and what is saved then is corrupt.
    """
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=recipe["double_quantization"],
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        model_folder, dtype=torch.float32, quantization_config=config, device_map={"": device}, local_files_only=True
    )
    dense = dequantize_layers(model)
    model.save_pretrained(out)
    stored = sum(
        tensor.numel() * tensor.element_size()
        for name in dense
        for key, tensor in model.get_submodule(name).state_dict().items()
        if key.startswith("weight")
    )
    bits_per_weight = 8 * stored / sum(weight.numel() for weight in dense.values())
    assert all(name.startswith(tuple(decoder_blocks(model))) for name in dense)
    return {
        "format": "bitsandbytes",
        "bits": 4,
        "group_size": 64,
        "symmetric": False,
        "bits_per_weight": bits_per_weight,
        "dense": dense,
    }
