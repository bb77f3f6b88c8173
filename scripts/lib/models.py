"""Loading models: every format, quantized or not, comes back as one dense Hugging Face model in a declared dtype."""

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer


def load_dense(folder: Path | str, dtype: str = "float32") -> nn.Module:
    """Load a model folder as a dense model on the CPU, in eval mode, quantized weights dequantized.

    Args:
        folder: Hugging Face model folder: plain, or saved by GPTQModel (gptq) or bitsandbytes.
        dtype: name of the torch dtype of all weights, e.g. "float32" or "bfloat16".

    Raises:
        ValueError: weights are missing, unexpected or of the wrong shape; the message names folder and tensors.
    """
    torch_dtype = getattr(torch, dtype)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch_dtype, local_files_only=True, output_loading_info=True, device_map={"": "cpu"}
    )
    problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if problems:
        raise ValueError(f"{folder} does not load cleanly: {problems}")
    for name, weight in dequantize_layers(model).items():
        parent, _, child = name.rpartition(".")
        bias = model.get_submodule(name).bias
        setattr(model.get_submodule(parent), child, _linear(weight, bias, torch_dtype))
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model.eval().requires_grad_(False)


def dequantize_layers(model: nn.Module) -> dict[str, torch.Tensor]:
    """Dense weights [out, in] (float32, CPU) of a model's quantized layers, by name; empty for a plain model."""
    weights = {name: _dequantized(module) for name, module in model.named_modules()}
    return {name: weight.float().cpu().contiguous() for name, weight in weights.items() if weight is not None}


def load_tokenizer(folder: Path | str):
    """Load the tokenizer of a model folder, from local files only."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are quantized: linear layers of the decoder blocks, by name; never embeddings, head or norms."""
    blocks = decoder_blocks(model)
    return {
        f"{prefix}.{name}": module
        for prefix, block in blocks.items()
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }


def decoder_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The decoder blocks by name: the members of the model's longest list of modules, e.g. `model.layers.0`.

    Raises:
        ValueError: the model has no list of as many modules as its config has layers.
    """
    layers = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == layers:
            return {f"{name}.{index}": block for index, block in enumerate(module)}
    raise ValueError(
        f"{type(model).__name__} has no list of {layers} decoder blocks; this architecture is not supported"
    )


def _dequantized(module: nn.Module) -> torch.Tensor | None:
    """Dense weight [out, in] of a quantized linear layer of a supported library, or None for any other module."""
    if hasattr(module, "dequantize_weight"):  # the class's own: the module's is compiled by torch, seconds for one call
        return type(module).dequantize_weight(module).T
    if type(module).__module__.startswith("bitsandbytes") and hasattr(module.weight, "quant_state"):
        return _dequantized_4bit(module.weight.data, module.weight.quant_state)
    return None


def _dequantized_4bit(data: torch.Tensor, state) -> torch.Tensor:
    """Dense weight of bitsandbytes' 4-bit data, dequantized block by block.

    Its CPU kernel (0.50.2) starts a new block with each row and so returns wrong weights, without an error, where the
    block size does not divide the rows' length (width 96 and blocks of 64, say). One block a row is right for both.
    """
    from bitsandbytes.functional import dequantize_4bit

    blocks = copy.copy(state)
    blocks.shape = torch.Size((state.shape.numel() // state.blocksize, state.blocksize))
    return dequantize_4bit(data, blocks).reshape(state.shape)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(dtype).contiguous(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    return linear
