"""Packed weights: every format of quantized model files, read as dense tensors.

The formats are read here, and not by the loaders of the libraries that wrote them, so that all methods are evaluated by
the same dense kernels, and so that what a library reads back wrongly is noticed. Only the arithmetic of
compressed-tensors' and bitsandbytes' formats is theirs.
"""

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from scripts.lib.models.folders import weight_files

PARTS = {  # what ends the names of a quantized layer's tensors in a file; the first tells which layers are quantized
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "compressed-tensors": (
        "weight_scale",
        "weight",
        "weight_packed",
        "weight_zero_point",
        "weight_shape",
        "weight_g_idx",
        "weight_global_scale",
    ),
    "bitsandbytes": (
        "weight.absmax",
        "weight",
        "weight.quant_map",
        "weight.nested_absmax",
        "weight.nested_quant_map",
        "weight.quant_state.bitsandbytes__nf4",
        "weight.quant_state.bitsandbytes__fp4",
    ),
    "bitsandbytes_8bit": ("SCB", "weight", "weight_format"),
}
PLANES = {5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}  # widths of the bit planes that GPTQModel stores these codes in
WORD = 32


@dataclass(frozen=True)
class Stored:
    """How a quantized layer lies in a file.

    bytes: of all its tensors but the bias.
    columns: index of the group of each input column [in], where columns are not grouped in their order; else None.
    """

    bytes: int
    columns: torch.Tensor | None


def format_of(quantization: dict) -> str:
    """Name of the format of a model's `quantization_config`, a key of PARTS.

    Raises:
        ValueError: this project does not read the format; the message names it.
    """
    name = quantization.get("quant_method")
    variant = quantization.get("checkpoint_format") or quantization.get("format") or "gptq"
    if name == "gptq" and variant not in ("gptq", "gptq_p"):
        raise ValueError(f"quantized files of the format `{variant}` are not read; `gptq` (v1) is")
    if name == "bitsandbytes" and quantization.get("load_in_8bit"):
        return "bitsandbytes_8bit"
    if name not in PARTS:
        raise ValueError(f"quantized files of `{name}` are not read; these are: gptq, compressed-tensors, bitsandbytes")
    return name


def read_layers(
    folder: Path | str, quantization: dict, device: str = "cpu", prefix: str = ""
) -> Iterator[tuple[str, torch.Tensor]]:
    """The quantized layers of a model folder, one at a time: name, dense weight [out, in] in float32.

    Args:
        folder: Hugging Face model folder.
        quantization: the `quantization_config` of its config.json.
        device: where they are unpacked, and lie then.
        prefix: only layers whose names begin so.

    Raises:
        ValueError: the format is unknown, or a part of a layer is missing; the message names it.
    """
    yield from _layers(folder, _places(folder, prefix), quantization, device)


def _layers(
    folder: Path | str, where: dict[str, safe_open], quantization: dict, device: str
) -> Iterator[tuple[str, torch.Tensor]]:
    name = format_of(quantization)
    for layer, endings in _group(where, PARTS[name]).items():
        parts = {end: where[f"{layer}.{end}"].get_tensor(f"{layer}.{end}").to(device) for end in endings}
        try:
            weight = READERS[name](parts, quantization)
        except KeyError as error:
            raise ValueError(f"{folder}: {layer} has no tensor {error}, of a `{name}` layer") from error
        yield layer, weight.float().contiguous()


def describe_layers(folder: Path | str, quantization: dict) -> dict[str, Stored]:
    """The quantized layers of a model folder, without their weights."""
    layers, where = {}, _places(folder)
    for layer, endings in _group(where, PARTS[format_of(quantization)]).items():
        size, columns = 0, None
        for end in endings:
            tensor = where[f"{layer}.{end}"].get_tensor(f"{layer}.{end}")  # mapped from its file, not read
            size += tensor.nbytes
            if end.endswith("g_idx") and tensor.diff().lt(0).any():
                columns = tensor.long()
        layers[layer] = Stored(size, columns)
    return layers


def read_others(folder: Path | str, quantization: dict, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a model folder that belong to no quantized layer's weight: kept layers, and all biases.

    Args:
        prefix: only tensors whose names begin so.
    """
    yield from _others(_places(folder, prefix), quantization)


def _others(where: dict[str, safe_open], quantization: dict) -> Iterator[tuple[str, torch.Tensor]]:
    taken = _tensors_of(_group(where, PARTS[format_of(quantization)]))
    for name, file in where.items():
        if name not in taken:
            yield name, file.get_tensor(name)


def read_tensors(folder: Path | str, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a model folder, or those whose names begin with a prefix, one at a time."""
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dictionary
                if name.startswith(prefix):
                    yield name, tensors.get_tensor(name)


def read_dense(
    folder: Path | str, quantization: dict | None, device: str, prefix: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that a dense model takes from a folder, as `dense_names` has them, whose names begin with a prefix.

    Args:
        quantization: the `quantization_config` of the folder's config.json; None for a plain model.
        device: where quantized layers are unpacked; the other tensors are on the CPU.
    """
    if quantization is None:
        yield from read_tensors(folder, prefix)
        return
    where = _places(folder, prefix)
    yield from _others(where, quantization)
    for layer, weight in _layers(folder, where, quantization, device):
        yield f"{layer}.weight", weight


def dense_names(folder: Path | str, quantization: dict | None) -> set[str]:
    """Names of all tensors that a dense model takes from a folder: a quantized layer counts as its weight."""
    names = set(_places(folder))
    if quantization is None:
        return names
    layers = _group(names, PARTS[format_of(quantization)])
    return names - _tensors_of(layers) | {f"{layer}.weight" for layer in layers}


def _tensors_of(layers: dict[str, list[str]]) -> set[str]:
    """Names of the tensors that make the weights of layers, as `_group` has these."""
    return {f"{layer}.{end}" for layer, endings in layers.items() for end in endings}


def _places(folder: Path | str, prefix: str = "") -> dict[str, safe_open]:
    """Tensor -> the open file that holds it, of those whose names begin with a prefix."""
    files = [safe_open(file, "pt") for file in weight_files(folder)]
    return {name: file for file in files for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118 - no dict


def _group(names: Collection[str], endings: tuple[str, ...]) -> dict[str, list[str]]:
    """Quantized layer -> endings of its tensors, among the names of all tensors."""
    layers = [name.removesuffix(f".{endings[0]}") for name in names if name.endswith(f".{endings[0]}")]
    return {layer: [end for end in endings if f"{layer}.{end}" in names] for layer in layers}


def _gptq(parts: dict[str, torch.Tensor], quantization: dict) -> torch.Tensor:
    """AutoGPTQ's format (v1): codes packed along input rows, zero points along output columns and stored one lower.

    w[i, o] = scale[g(i), o] * (code[i, o] - zero[g(i), o]), with the group g(i) of each input column from `g_idx`.
    """
    bits, groups = quantization["bits"], parts["g_idx"].long()
    lower = 0 if bits in PLANES else 1
    codes = unpack(parts["qweight"], bits)[: len(groups)].to(torch.uint8).T.contiguous()  # bytes are turned over faster
    zeros = unpack(parts["qzeros"].T.contiguous(), bits, lower)[: parts["scales"].shape[1]]
    scales = parts["scales"].float().T
    in_order = torch.arange(len(groups), device=groups.device) // (len(groups) // scales.shape[1])
    if not torch.equal(groups, in_order):
        zeros, scales = zeros[:, groups], scales[:, groups]
    weight = codes.view(*scales.shape, -1).float().sub_(zeros.unsqueeze(-1)).mul_(scales.unsqueeze(-1))
    return weight.view(codes.shape)


def unpack(words: torch.Tensor, bits: int, lower: int = 0) -> torch.Tensor:
    """Codes [n, columns] (int32) of words [n * bits / 32, columns] (int32) in GPTQ's packing.

    Codes of 2, 3, 4 and 8 bits are one stream of bits down each column, lowest bits first; those of 5, 6 and 7 bits lie
    in bit planes (GPTQModel's `gptq_p`): for every 32 codes the lowest 4 bits, and then the higher ones, in words of
    their own.

    Args:
        lower: what was subtracted from every code before it was packed; added again modulo 2^bits.
    """
    if bits not in PLANES:
        return _unpack_stream(words, bits, lower)
    blocks, codes, row, offset = words.reshape(-1, bits, words.shape[1]), 0, 0, 0
    for width in PLANES[bits]:
        plane = blocks[:, row : row + width].reshape(-1, words.shape[1])
        codes = codes + (_unpack_stream(plane, width, 0) << offset)
        row, offset = row + width, offset + width
    return codes


def _unpack_stream(words: torch.Tensor, bits: int, lower: int) -> torch.Tensor:
    """Codes in one stream of bits; whole rows of words at a time, in 32 bits, which wrap around."""
    most = 2**bits - 1
    if lower and WORD % bits == 0:  # GPTQModel subtracts from whole words, where a code of 0 borrows from the next
        words, lower = words + lower * ((2**WORD - 1) // most), 0
    block = bits if WORD % bits else 1  # words after which codes and words end together
    stream = words.reshape(-1, block, words.shape[1])
    count = block * WORD // bits
    codes = words.new_empty(len(stream), count, words.shape[1])
    for number in range(count):
        word, shift = divmod(number * bits, WORD)
        code = torch.bitwise_right_shift(stream[:, word], shift, out=codes[:, number])
        if shift + bits > WORD:  # the sign was shifted in above the word's own bits
            code &= 2 ** (WORD - shift) - 1
            code |= stream[:, word + 1] << (WORD - shift)
    codes += lower
    codes &= most
    return codes.reshape(-1, words.shape[1])


def _compressed_tensors(parts: dict[str, torch.Tensor], quantization: dict) -> torch.Tensor:
    """The format of llm-compressor and vLLM, by the compressor classes of the compressed-tensors package."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    from compressed_tensors.quantization import QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    (group,) = quantization["config_groups"].values()
    scheme = QuantizationScheme(**group)
    name = group.get("format") or quantization["format"]
    if name == "nvfp4-pack-quantized":  # its own way back ends in bfloat16, which moves weights by 0.15 %
        rows, half = parts["weight_packed"].shape
        codes = unpack_fp4_from_uint8(parts["weight_packed"], rows, 2 * half, dtype=torch.float32)
        scale, whole = parts["weight_scale"].float(), parts["weight_global_scale"]
        return dequantize(codes, scale, args=scheme.weights, global_scale=whole, dtype=torch.float32)
    return BaseCompressor.get_value_from_registry(name).decompress(parts, scheme)["weight"]


def _bitsandbytes(parts: dict[str, torch.Tensor], quantization: dict) -> torch.Tensor:
    from bitsandbytes.functional import QuantState

    parts = dict(parts)
    data = parts.pop("weight")
    state = {f"weight.{name.removeprefix('weight.')}": tensor for name, tensor in parts.items()}
    return dequantize_4bit(data, QuantState.from_dict(state, device=data.device))


def dequantize_4bit(data: torch.Tensor, state) -> torch.Tensor:
    """Dense weight of bitsandbytes' 4-bit data, dequantized block by block.

    Its CPU kernel (0.50.2) starts a new block with each row and so returns wrong weights, without an error, where the
    block size does not divide the rows' length (width 96 and blocks of 64, say). One block a row is right for both.
    """
    from bitsandbytes.functional import dequantize_4bit

    blocks = copy.copy(state)
    blocks.shape = torch.Size((state.shape.numel() // state.blocksize, state.blocksize))
    return dequantize_4bit(data, blocks).reshape(state.shape)


def _bitsandbytes_8bit(parts: dict[str, torch.Tensor], quantization: dict) -> torch.Tensor:
    """LLM.int8(), arXiv:2208.07339: a row's largest magnitude `SCB` stands for 127."""
    return parts["weight"].float() * parts["SCB"].float().unsqueeze(1) / 127


READERS = {
    "gptq": _gptq,
    "compressed-tensors": _compressed_tensors,
    "bitsandbytes": _bitsandbytes,
    "bitsandbytes_8bit": _bitsandbytes_8bit,
}
