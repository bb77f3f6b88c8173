"""How many bytes a model takes, plain and after zstd: quantized layers packed, all other tensors as stored before.

Files mislead: those of some methods hold dense weights, and some libraries save in float32 what a checkpoint keeps in
half precision.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import polars
import pyarrow
import torch
from torch import nn

from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import quantization_of
from scripts.lib.models.packed import read_others, read_tensors
from scripts.lib.runtime.untrusted import read_json

LEVEL = 3  # of zstd, its default
SAMPLE = 2**22  # bytes: the first of a larger tensor stand for all of it
BYTE = 8  # bits


def zstd(tensor: torch.Tensor) -> int:
    """Bytes of a tensor after zstd; what does not shrink is left as it is."""
    raw = tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8)
    sample = raw[:SAMPLE]
    if not len(sample):
        return 0
    packed = pyarrow.Codec("zstd", compression_level=LEVEL).compress(sample.numpy())
    return min(len(raw), math.ceil(len(packed) * len(raw) / len(sample)))


def zstd_bits(
    name: str, weight: torch.Tensor, grid: Grid, steps: torch.Tensor, bits_per_weight: float, columns=None
) -> float:
    """Bits a weight of a quantized layer whose codes went through zstd; its scales stay as they are.

    A code is the weight in units of its group's smallest step: on a grid of even steps the integer that is stored, on
    others as good a label. As many as a byte holds whole stand in one: bytes across which codes lie do not shrink. A
    layer with more codes than a byte holds is taken as packed.

    Args:
        name: the layer.
        weight: dense [out, in], quantized.
        grid: on which it lies.
        steps: of each group, as `gate.check_levels` gives them.
        bits_per_weight: packed, with scales and zero points.
        columns: group of each input column [in], if columns are not grouped in their order.
    """
    codes = (grid.groups(weight, columns) / steps[:, None]).round_()
    width = max(1, math.ceil(math.log2(float((codes.amax(dim=1) - codes.amin(dim=1)).max()) + 1)))
    if width > BYTE:
        return bits_per_weight
    smaller = BYTE * zstd(_joined(codes.int() & (2**width - 1), width)) / weight.numel()
    return min(bits_per_weight, smaller + bits_per_weight - grid.bits_of(name))


def _joined(codes: torch.Tensor, width: int) -> torch.Tensor:
    """Codes of so many bits as bytes, each of as many codes as fit whole."""
    together = BYTE // width
    codes = codes.to(torch.uint8).reshape(-1)
    codes = nn.functional.pad(codes, (0, -codes.numel() % together)).reshape(-1, together)
    joined = codes[:, 0].clone()
    for number in range(1, together):
        joined |= codes[:, number] << width * number
    return joined


def model_sizes(checkpoint: Path, folder: Path, layers: polars.DataFrame) -> dict[str, int]:
    """Bytes of a quantized model and of its checkpoint.

    Tensors that are not quantized count in the type in which the checkpoint stores them; one that the checkpoint lacks,
    such as a head that a rotation set apart from the embedding, in that of the checkpoint's first tensor.

    Args:
        checkpoint: folder of the unquantized model.
        folder: of the quantized one.
        layers: its table of layers.

    Returns:
        packed, packed_zstd, unquantized, unquantized_zstd.
    """
    dtypes, plain, compressed = {}, 0, 0
    for name, tensor in read_tensors(checkpoint):
        dtypes[name] = tensor.dtype
        plain, compressed = plain + tensor.nbytes, compressed + zstd(tensor)
    packed, smaller = (
        float((layers[name] * layers["weights"]).sum()) / 8 for name in ("bits_per_weight", "bits_per_weight_zstd")
    )
    tied = read_json(Path(folder) / "config.json").get("tie_word_embeddings", False)
    first = next(iter(dtypes.values()))
    for name, tensor in _others(folder, set(layers["layer"])):
        if name in dtypes or (not tied and tensor.any()):  # else a copy of the embedding, or an empty bias
            stored = tensor.to(dtypes.get(name, first))
            packed, smaller = packed + stored.nbytes, smaller + zstd(stored)
    sizes = {"packed": packed, "packed_zstd": smaller, "unquantized": plain, "unquantized_zstd": compressed}
    return {name: math.ceil(size) for name, size in sizes.items()}


def _others(folder: Path, layers: set[str]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a quantized model's files that belong to no quantized layer's weight."""
    if quantization := quantization_of(folder):
        return read_others(folder, quantization)
    return ((name, tensor) for name, tensor in read_tensors(folder) if name.removesuffix(".weight") not in layers)
