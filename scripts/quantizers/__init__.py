"""Quantization libraries behind one interface: one file a library, imported only when a recipe asks for it.

Each module has `ABOUT`, all that the workflow knows of the library (workflow/schemas/library.schema.yaml), and
`quantize(model_folder, recipe, calibration, device) -> Quantized`. What is done before rounding
(`transform` in a recipe) is in transforms.py, which architectures a method is refused for in support.py.
"""

import gc
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from scripts.lib.models.grids import Grid


@dataclass
class Quantized:
    """A quantized model in memory, before it is saved.

    model: runs a forward pass with the library's own kernels; None where `losses` is given.
    weights: the quantized layers, one at a time: name, dense weight [out, in] as the library dequantizes it.
    save: writes a Hugging Face model folder.
    format: of that folder: dense, gptq, compressed-tensors or bitsandbytes.
    save_first: whether a forward pass would change what is saved.
    seconds: what each layer took, as far as the library tells.
    losses: mean losses of token windows, where the model in memory is another process's.
    """

    model: nn.Module | None
    weights: Callable[[], Iterator[tuple[str, torch.Tensor]]]
    save: Callable[[Path], None]
    format: str
    grid: Grid
    save_first: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    losses: Callable[[np.ndarray], np.ndarray] | None = None


def load_quantizer(library: str):
    """The `quantize` function of a library, imported now.

    Raises:
        KeyError: there is no such library; recipes are checked against their schema before.
    """
    from scripts.lib.study.libraries import libraries  # not at the top: auto-gptq's environment lacks what it needs

    if library not in libraries():
        raise KeyError(f"there is no quantizer `{library}`; there are: {', '.join(libraries())}")
    return _imported(library).quantize


def load_transform():
    """The `transform` function, imported now."""
    return _imported("transforms").transform


def _imported(name: str):
    """A module of this folder. What it imports stays, so that the garbage collector is told to look at it no more.

    Libraries call that after every layer, and on a small model spend most of their time in it.
    """
    module = importlib.import_module(f"scripts.quantizers.{name}")
    gc.collect()
    gc.freeze()
    return module


def save_dense(
    model: nn.Module,
    layers: dict[str, nn.Linear],
    grid: Grid,
    nominal: dict[str, float],
    seconds: dict[str, float] | None = None,
) -> Quantized:
    """A model whose linear layers already hold their rounded weights, to be saved dense.

    Args:
        nominal: bits a weight that each layer would take, with scales and zero points, if it were packed.
    """
    return Quantized(
        model=model,
        weights=lambda: ((name, layer.weight.data.float().cpu()) for name, layer in layers.items()),
        save=lambda out: model.save_pretrained(out),
        format="dense",
        grid=replace(grid, nominal=nominal),
        seconds=seconds or {},
    )
