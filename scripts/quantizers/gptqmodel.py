"""gptqmodel: GPTQ by GPTQModel, the maintained successor of auto-gptq; files in the gptq v1 format."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from scripts.lib.models import own_code
from scripts.lib.models.folders import INDEX, weight_files
from scripts.lib.models.grids import Grid
from scripts.lib.models.packed import PLANES
from scripts.quantizers import Quantized

ABOUT = {
    "package": "GPTQModel",
    "stored": "packed",
    "algorithms": {
        "gptq": {
            "title": "GPTQ",
            "description": "GPTQ, arXiv:2210.17323, by GPTQModel, the maintained successor of auto-gptq.",
            "settings": {
                "bits": {"enum": [2, 3, 4, 5, 6, 7, 8], "description": "Bits a weight."},
                "group_size": "group_size",
                "symmetric": "symmetric",
                "damping": "damping",
                "desc_act": "desc_act",
                "act_group_aware": {
                    "type": "boolean",
                    "description": "Group-aware reordering of columns; not with desc_act or whole rows.",
                },
                "gptaq": {"type": "boolean", "description": "GPTAQ's asymmetric calibration, arXiv:2504.02692."},
                "transform": "transform",
                "calibration": "calibration",
            },
            "optional": ["transform"],
            "passes": 8,  # Hessians, inverses and column updates: 4 to 7
        },
    },
}


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray, device: str) -> Quantized:
    """Quantize with GPTQ in float32.

    Args:
        calibration: token windows [samples, window].
    """
    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # read at import; it refuses fewer
    os.environ["GPTQ_TORCH_TRITON_DEQUANT"] = "0"  # its Triton kernel asks for a C compiler on the machine with the GPU
    from gptqmodel import GPTQModel
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear
    from gptqmodel.quantization.config import GPTAQConfig, GPTQConfig

    config = GPTQConfig(
        **{name: recipe[name] for name in ("bits", "group_size", "desc_act", "act_group_aware")},
        sym=recipe["symmetric"],
        damp_percent=recipe["damping"],
        gptaq=GPTAQConfig() if recipe["gptaq"] else None,
        fallback=None,  # its default rounds to nearest where calibration is thin, and still calls it GPTQ
        offload_to_disk=False,
        device=device,  # `load` takes no notice of its own argument
    )
    loading = {"dtype": torch.float32, "trust_remote_code": own_code.is_trusted(model_folder)}
    model = GPTQModel.load(str(model_folder), config, **loading)
    windows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in calibration]
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it writes logs to where it runs
        model.quantize(windows, batch_size=min(8, len(windows)))
    layers = {name: module for name, module in model.model.named_modules() if isinstance(module, BaseQuantLinear)}

    def save(out: Path) -> None:
        model.save(str(out.resolve()))
        if model.model.config.model_type == "gpt_neox":
            rename_head(out)
        for layer in layers.values():
            restore_zeros(layer)

    return Quantized(
        model=model.model,
        weights=lambda: ((name, dequantize(layer)) for name, layer in layers.items()),
        save=save,
        format="gptq",
        grid=Grid(recipe["bits"], recipe["group_size"], recipe["symmetric"]),
        save_first=True,
        seconds={name: entry for name in layers for entry in times_of(name, model.quant_log)},
    )


def rename_head(folder: Path) -> None:
    """Name GPT-NeoX's head as its files do: under GPTQModel's name for it, older readers take a random head."""
    names = {"lm_head.weight": "embed_out.weight"}
    for file in weight_files(folder):
        tensors = load_file(file)
        save_file({names.get(name, name): tensor for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    index = folder / INDEX
    if index.is_file():
        content = json.loads(index.read_text())
        content["weight_map"] = {names.get(name, name): file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=1))


def times_of(name: str, log: list[dict]) -> list[float]:
    """Seconds that the library's own log gives for a layer; it names layers within their block."""
    return [float(entry["time"]) for entry in log if name.endswith(f".{entry['layer']}.{entry['module']}")]


def restore_zeros(layer) -> None:
    """Make the zero points of a layer in memory whole: until it is reloaded they are one too low, as in the file."""
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    if layer.bits not in PLANES:
        convert_gptq_v1_to_v2_format_module(layer, layer.bits, layer.pack_dtype)


def dequantize(layer) -> torch.Tensor:
    """Dense weight [out, in] of a layer that is not saved yet, by the library."""
    stored = layer.qzeros.data.clone()
    restore_zeros(layer)
    weight = type(layer).dequantize_weight(layer).T.float().cpu()  # the module's own function is compiled, for seconds
    layer.qzeros.data.copy_(stored)
    return weight
