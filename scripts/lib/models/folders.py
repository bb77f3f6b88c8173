"""Checking a Hugging Face model folder from file sizes and headers alone: cheap enough to do before any work starts."""

import json
import math
import struct
from pathlib import Path


def validate_model_folder(folder: Path | str) -> dict:
    """Check that a folder holds a whole Hugging Face model with safetensors weights; return its config.

    Raises:
        ValueError: no config.json, no safetensors, a shard that the index names is missing, or a file is truncated;
            the message names the file and what to do.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; correct `path`")
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{folder} has no config.json; give a model folder as written by save_pretrained")
    shards = weight_files(folder)
    if not shards:
        raise ValueError(f"{folder} has no weights (*.safetensors); save the model with safetensors")
    for shard in shards:
        if not shard.is_file():
            raise ValueError(f"{shard} is missing although the folder's index names it; copy the folder again")
        read_header(shard)
    return json.loads(config.read_text())


def weight_files(folder: Path | str) -> list[Path]:
    """The safetensors files of a model folder, as its index names them if it has one."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
    return sorted(folder.glob("*.safetensors"))


def read_header(path: Path) -> dict[str, dict]:
    """Tensors of a safetensors file by name (dtype, shape, data_offsets), checked against the file's size.

    The format is 8 bytes with the header's length, a JSON header, then the data.

    Raises:
        ValueError: the file is truncated or not in this format.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError("its header is cut off")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"it has {size} bytes and should have {end}")
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}; copy it again") from error
    return header


def count_parameters(folder: Path | str) -> int:
    """Number of weights stored in a model folder, from its headers; tied weights count once."""
    headers = [read_header(path) for path in weight_files(folder)]
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())
