"""What runs in auto-gptq's own environment (envs/auto-gptq.lock): quantize, rewrite or run a model by auto-gptq 0.7.1.

`python -m scripts.quantizers.autogptq_worker REQUESTS.json`; see scripts/quantizers/autogptq.py.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch


def load(folder: str, device: str):
    """A quantized model folder, by auto-gptq's own loader and plain torch kernels."""
    from auto_gptq import AutoGPTQForCausalLM

    plain = {"use_triton": False, "disable_exllama": True, "disable_exllamav2": True}
    return AutoGPTQForCausalLM.from_quantized(
        folder, device=device, torch_dtype=torch.float32, use_safetensors=True, **plain
    )


def quantize(source: str, recipe: dict, calibration: str, out: str, device: str) -> None:
    """Quantize a model folder with auto-gptq's GPTQ. Needs CUDA."""
    from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig

    config = BaseQuantizeConfig(
        bits=recipe["bits"],
        group_size=recipe["group_size"],
        sym=recipe["symmetric"],
        damp_percent=recipe["damping"],
        desc_act=recipe["desc_act"],
    )
    model = AutoGPTQForCausalLM.from_pretrained(source, config, torch_dtype=torch.float32)
    rows = torch.from_numpy(np.load(calibration).astype(np.int64)).split(1)
    examples = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
    model.quantize(examples, batch_size=min(8, len(examples)), use_triton=False, cache_examples_on_gpu=False)
    model.save_quantized(out, use_safetensors=True)


def rewrite(source: str, out: str, device: str) -> None:
    """Load a quantized model folder and save it again, so that auto-gptq itself has written the file."""
    load(source, device).save_quantized(out, use_safetensors=True)


@torch.inference_mode()
def losses(folder: str, windows: str, out: str, device: str) -> None:
    """Write the mean loss of each token window [n, window], nats a token: [n] (npy)."""
    model, found = load(folder, device), []
    for row in torch.from_numpy(np.load(windows).astype(np.int64)).split(1):
        logits = model(input_ids=row.to(device), attention_mask=torch.ones_like(row).to(device)).logits.float()
        target = row[:, 1:].to(device)
        found.append(float(torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), target)))
    np.save(out, np.array(found))


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # before auto_gptq imports huggingface_hub: its models are folders
    for request in json.loads(Path(sys.argv[1]).read_text()):
        {"quantize": quantize, "rewrite": rewrite, "losses": losses}[request.pop("do")](**request)
