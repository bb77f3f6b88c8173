"""Loading models: every format, quantized or not, comes back as one dense Hugging Face model in a declared dtype."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from scripts.lib.models import lean  # noqa: F401 - before transformers' models  # isort: skip

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from scripts.lib.models import own_code, packed
from scripts.lib.runtime.shortages import Refused

CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len")  # what classes call it


def load_dense(
    folder: Path | str, dtype: str = "float32", layers: Iterable[tuple[str, torch.Tensor]] | None = None
) -> nn.Module:
    """Load a model folder as a dense model on the CPU, in eval mode, quantized weights dequantized.

    Args:
        folder: Hugging Face model folder: plain, or in one of the formats of `packed.PARTS`.
        dtype: name of the torch dtype of all weights, e.g. "float32" or "bfloat16".
        layers: the quantized layers as `packed.read_layers` gives them, where they are unpacked already.

    Raises:
        ValueError: weights are missing, unexpected or of the wrong shape, or the format is unknown; the message names
            folder and tensors; or the folder's own code is not as it was pinned.
    """
    settings = {"dtype": getattr(torch, dtype), "output_loading_info": True}
    quantization = quantization_of(folder)
    if quantization:
        empty = load_empty(folder)
        known = empty.state_dict()
        others = packed.read_others(folder, quantization)
        state = {name: tensor for name, tensor in others if name in known or not is_empty_bias(name, tensor)}
        for layer, weight in packed.read_layers(folder, quantization) if layers is None else layers:
            state[f"{layer}.weight"] = weight.to("cpu", settings["dtype"])
        del empty.config.quantization_config
        model, info = type(empty).from_pretrained(None, config=empty.config, state_dict=state, **settings)
    else:
        model, info = AutoModelForCausalLM.from_pretrained(folder, **_place(folder), **settings)
    return _cleanly_loaded(folder, model, info)


def load_outer(
    folder: Path | str, empty: nn.Module, dtype: str, stand_in: Callable[[nn.Module, int], nn.Module]
) -> nn.Module:
    """A dense model as of `load_dense`, but for its decoder blocks, which are neither read nor in it.

    Args:
        empty: the model without its weights.
        stand_in: makes of a block without weights, and its number, the module that is put where it was.

    Raises:
        ValueError: as `load_dense`, of all but the blocks.
    """
    quantization = quantization_of(folder)
    prefixes = tuple(f"{name}." for name in decoder_blocks(empty))

    class Outer(type(empty)):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            for number, (name, block) in enumerate(decoder_blocks(self).items()):
                self.set_submodule(name, stand_in(block, number))
            self._keys_to_ignore_on_load_unexpected |= {f"^{re.escape(prefix)}" for prefix in prefixes}

    # By these transformers knows what the class's weights are called in files.
    Outer.__name__, Outer.__module__ = type(empty).__name__, type(empty).__module__
    settings = {"dtype": getattr(torch, dtype), "output_loading_info": True}
    if quantization:
        others = packed.read_others(folder, quantization)
        state = {name: tensor for name, tensor in others if not name.startswith(prefixes)}
        del empty.config.quantization_config
        model, info = Outer.from_pretrained(None, config=empty.config, state_dict=state, **settings)
    else:
        model, info = Outer.from_pretrained(folder, **_place(folder), **settings)
    return _cleanly_loaded(folder, model, info)


def _place(folder: Path | str) -> dict:
    """How a folder is loaded: on the CPU, with nothing from a hub."""
    return {"device_map": {"": "cpu"}, "local_files_only": True, "trust_remote_code": own_code.is_trusted(folder)}


def _cleanly_loaded(folder: Path | str, model: nn.Module, info: dict) -> nn.Module:
    problems = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if problems:
        raise ValueError(f"{folder} does not load cleanly: {problems}")
    return model.eval().requires_grad_(False)


def is_empty_bias(name: str, tensor: torch.Tensor) -> bool:
    """Whether this is the bias of zeros that auto-gptq's files give to every layer."""
    return name.endswith(".bias") and not tensor.any()


def quantization_of(folder: Path | str) -> dict | None:
    """The `quantization_config` of a model folder; None for a plain model."""
    return json.loads((Path(folder) / "config.json").read_text()).get("quantization_config")


def load_empty(folder: Path | str) -> nn.Module:
    """The model of a folder without its weights, for what its layers are called and how large they are."""
    config = load_config(folder)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=own_code.is_trusted(folder))


def load_config(folder: Path | str):
    """What transformers makes of a config.json, with its own values for what the file does not say."""
    return AutoConfig.from_pretrained(folder, trust_remote_code=own_code.is_trusted(folder), local_files_only=True)


def require_fit(folder: Path | str, window: int) -> None:
    """Check that a model can read windows of so many tokens, as far as its config says.

    Raises:
        Refused: it cannot.
    """
    config = load_config(folder).get_text_config()
    for key in CONTEXTS:
        longest = getattr(config, key, None)
        if isinstance(longest, int) and longest < window:
            raise Refused(f"the model reads {longest} tokens at most (`{key}`), and the windows have {window}")


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether no value is infinite or not a number; by its extremes, in one pass and a tenth of isfinite's time."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def load_tokenizer(folder: Path | str):
    """Load the tokenizer of a model folder, from local files only."""
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=own_code.is_trusted(folder), local_files_only=True)


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The layers that are quantized: linear layers of the decoder blocks, by name; never embeddings, head or norms."""
    blocks = decoder_blocks(model)
    return {
        f"{prefix}.{name}": module
        for prefix, block in blocks.items()
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }


def unsupported_tensors(model: nn.Module) -> list[str]:
    """Names of the decoder blocks' matrices that are not of a linear layer, such as experts kept in one tensor."""
    linear = {f"{name}.weight" for name in block_linears(model)}
    blocks = tuple(f"{name}." for name in decoder_blocks(model))
    named = model.named_parameters()
    return [name for name, item in named if name.startswith(blocks) and item.ndim > 1 and name not in linear]


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
