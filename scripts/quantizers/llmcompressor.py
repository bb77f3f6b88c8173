"""llmcompressor: GPTQ, and 4-bit and 8-bit float formats, by llm-compressor; files of compressed-tensors."""

from pathlib import Path

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import forward_quantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from torch import nn

from scripts.lib.models import own_code
from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import block_linears, load_dense
from scripts.quantizers import Quantized

ABOUT = {
    "package": "llmcompressor",
    "uses": ["compressed-tensors"],
    "stored": "packed",
    "algorithms": {
        "gptq": {
            "title": "GPTQ",
            "description": "GPTQ, arXiv:2210.17323, by llm-compressor, an implementation independent of GPTQModel's.",
            "settings": {
                "bits": {"enum": [2, 3, 4, 5, 6, 7, 8], "description": "Bits a weight."},
                "group_size": "group_size",
                "symmetric": "symmetric",
                "damping": "damping",
                "desc_act": {
                    "type": "boolean",
                    "description": "Columns in the order of falling activation; groups stay those of neighbours.",
                },
                "transform": "transform",
                "calibration": "calibration",
            },
            "optional": ["transform"],
            "passes": 8,  # Hessians, inverses and column updates: 4 to 7
        },
        "mxfp4": {
            "title": "MXFP4",
            "description": "Weight-only 4-bit floats in groups of 32.",
            "bits": 4,
            "group": 32,
            "divides": 32,
        },
        "nvfp4": {
            "title": "NVFP4",
            "description": "Weight-only 4-bit floats in groups of 16.",
            "bits": 4,
            "group": 16,
            "divides": 16,
        },
        "fp8": {
            "title": "FP8",
            "description": "Weight-only FP8 E4M3, one scale a row.",
            "bits": 8,
            "group": -1,
        },
    },
}

PRESETS = {"mxfp4": "MXFP4A16", "nvfp4": "NVFP4A16"}


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, device: str) -> Quantized:
    """Quantize with GPTQ, or to a format (mxfp4, nvfp4, fp8) by rounding to nearest.

    Args:
        calibration: token windows [samples, window]; None where the algorithm needs none.
    """
    model = load_dense(model_folder, "float32").to(device)
    layers = block_linears(model)
    scheme = _scheme(recipe)
    groups = of_blocks(model, scheme)
    if recipe["algorithm"] == "gptq":
        order = "static" if recipe["desc_act"] else None
        modifier = GPTQModifier(**groups, dampening_frac=recipe["damping"], actorder=order)
    else:
        modifier = QuantizationModifier(**groups)
    run(model, modifier, calibration)
    weights = scheme.weights
    return Quantized(
        model=model,
        weights=lambda: ((name, dequantize(layer)) for name, layer in layers.items()),
        save=lambda out: model.save_pretrained(out, save_compressed=True),
        format="compressed-tensors",
        grid=Grid(weights.num_bits, weights.group_size or -1, weights.symmetric),
    )


def of_blocks(model: nn.Module, scheme: QuantizationScheme) -> dict:
    """A modifier's arguments for one scheme on the linear layers of all decoder blocks, and on no others."""
    layers = block_linears(model)
    kept = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in layers]
    return {"config_groups": {"blocks": scheme}, "ignore": kept}


def run(model: nn.Module, modifiers, calibration: np.ndarray | None) -> None:
    """Apply llm-compressor's modifiers to a model in memory, over all calibration windows in their order."""
    from llmcompressor.pipelines import cache

    if not torch.accelerator.is_available():  # it pins memory for an accelerator without asking whether there is one
        cache.IntermediatesCache.pin_memory = lambda self, *args, **kwargs: None
    data = {}
    if calibration is not None:
        rows = {"input_ids": calibration.tolist(), "attention_mask": np.ones_like(calibration).tolist()}
        data = {
            "dataset": Dataset.from_dict(rows),
            "max_seq_length": calibration.shape[1],
            "num_calibration_samples": len(calibration),
            "batch_size": min(8, len(calibration)),
            "shuffle_calibration_samples": False,
        }
    tied = bool(model.config.tie_word_embeddings)
    trusted = own_code.is_trusted(model.name_or_path)  # it reads the folder's config again
    oneshot(model=model, recipe=modifiers, tie_word_embeddings=tied, trust_remote_code_model=trusted, **data)


def dequantize(layer: nn.Linear) -> torch.Tensor:
    """Dense weight [out, in] of a layer that is not compressed yet: its rounded values, in place or not."""
    return forward_quantize(layer, layer.weight.data, "weight", layer.quantization_scheme.weights).float().cpu()


def integer_scheme(bits: int, group_size: int, symmetric: bool) -> QuantizationScheme:
    """Weight-only integers of one scale a group, or a row if `group_size` is -1."""
    strategy = {"strategy": "channel"} if group_size == -1 else {"strategy": "group", "group_size": group_size}
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=symmetric, **strategy)
    return QuantizationScheme(targets=["Linear"], weights=weights)


def _scheme(recipe: dict) -> QuantizationScheme:
    algorithm = recipe["algorithm"]
    if algorithm in PRESETS:
        return preset_name_to_scheme(PRESETS[algorithm], ["Linear"])
    if algorithm == "fp8":
        weights = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="channel")
        return QuantizationScheme(targets=["Linear"], weights=weights)
    return integer_scheme(recipe["bits"], recipe["group_size"], recipe["symmetric"])
