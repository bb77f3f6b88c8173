"""gptqmodel: GPTQ by GPTQModel, the maintained successor of auto-gptq; files in the gptq v1 format."""

import contextlib
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from scripts.lib.models import dequantize_layers
from scripts.quantizers import Refused


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray, out: Path, device: str) -> dict:
    """Quantize with GPTQ in float32 and save the packed model.

    Args:
        calibration: token windows [samples, window].

    Raises:
        Refused: GPTQModel does not support the architecture, or fails on the model.
    """
    os.environ["GPTQMODEL_CPU_WORKERS"] = "2"  # read at import; it refuses fewer
    from gptqmodel import GPTQModel
    from gptqmodel.nn_modules.qlinear import BaseQuantLinear
    from gptqmodel.quantization.config import GPTQConfig
    from gptqmodel.utils.model import convert_gptq_v1_to_v2_format_module

    config = GPTQConfig(
        bits=recipe["bits"],
        group_size=recipe["group_size"],
        sym=recipe["symmetric"],
        damp_percent=recipe["damping"],
        desc_act=recipe["desc_act"],
        act_group_aware=recipe["act_group_aware"],
        offload_to_disk=False,
    )
    try:
        model = GPTQModel.load(str(model_folder), config, device=device, dtype=torch.float32)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise Refused(f"GPTQModel does not load this model: {error}") from error
    windows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in calibration]
    out = out.resolve()
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):  # it writes logs to where it runs
        model.quantize(windows, batch_size=min(8, len(windows)))
    model.save(str(out))
    layers = [module for module in model.model.modules() if isinstance(module, BaseQuantLinear)]
    for layer in layers:  # in memory zero points are one too low, as in the file; `dequantize_weight` wants them whole
        convert_gptq_v1_to_v2_format_module(layer, recipe["bits"], layer.pack_dtype)
    dense = dequantize_layers(model.model)
    stored = sum(buffer.numel() * buffer.element_size() for layer in layers for buffer in layer.buffers())
    weights = sum(weight.numel() for weight in dense.values())
    keys = {"bits": recipe["bits"], "group_size": recipe["group_size"], "symmetric": recipe["symmetric"]}
    return keys | {"format": "gptq", "bits_per_weight": 8 * stored / weights, "dense": dense}
