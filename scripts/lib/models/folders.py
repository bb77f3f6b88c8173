"""Checking a Hugging Face model folder from file sizes and headers alone: cheap enough to do before any work starts."""

import math
import struct
from collections.abc import Collection
from pathlib import Path

from safetensors import SafetensorError, safe_open

from scripts.lib.runtime.untrusted import LARGEST_JSON, parse_json, read_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # the names that transformers loads, the first first
GENERATION = "generation_config.json"
MOST_FILES = 2_000  # of weights of a model; the largest known have some 200
MOST_TENSORS = 200_000  # of a model; the largest known have some 90,000, of hundreds of experts


def validate_model_folder(folder: Path | str) -> dict:
    """Check that a folder holds a whole Hugging Face model with safetensors weights; return its config.

    Raises:
        ValueError: no config.json, no safetensors or too many, weight files are not those that the folder's index
            names, a file is truncated, or two hold the same tensor; the message names the file and what to do.
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
    require_few(shards, str(folder))
    if not (folder / INDEX).is_file() and (others := [path.name for path in shards if path.name != WHOLE]):
        what = "take what is not the model's out" if folder / WHOLE in shards else "save the model with save_pretrained"
        raise ValueError(f"{folder} has {', '.join(others)} and no {INDEX}; {what}")
    where = {}
    for shard in shards:
        for name in read_header(shard):
            if where.setdefault(name, shard) != shard:
                raise ValueError(f"{shard} and {where[name].name} both hold {name}; save the model again")
        if len(where) > MOST_TENSORS:
            raise ValueError(f"{shard} and those before it hold {len(where)} tensors; {MOST_TENSORS} are read at most")
    return read_json(config)


def require_few(files: Collection, where: str) -> None:
    """Check that weights are in no more files than those of any model, for each of them is opened; ValueError."""
    if len(files) > MOST_FILES:
        raise ValueError(f"{where} has weights in {len(files)} files; {MOST_FILES} are read at most")


def weight_files(folder: Path | str) -> list[Path]:
    """The safetensors files of a model folder, which its index names if it has one.

    Raises:
        ValueError: the index names other files than there are.
    """
    folder = Path(folder)
    found = {path.name: path for path in folder.glob("*.safetensors") if path.is_file()}
    if (folder / INDEX).is_file():
        named = set(weight_map(folder / INDEX).values())
        for name in sorted(named - found.keys()):
            raise ValueError(f"{folder / name} is missing although the folder's index names it; copy the folder again")
        for name in sorted(found.keys() - named):
            raise ValueError(f"{folder / name} is not named by the folder's index; take it out of the folder")
    return sorted(found.values())


def weight_map(index: Path) -> dict[str, str]:
    """Which file holds each tensor, as an index says.

    Raises:
        ValueError: it says nothing of the kind, or names files that are not of its own folder.
    """
    content = read_json(index).get("weight_map")
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content.values()):
        raise ValueError(f"{index} has no `weight_map` of tensors to files; copy it again")
    if outside := sorted(name for name in set(content.values()) if Path(name).name != name):
        raise ValueError(f"{index} names {outside[0]!r}, which is no file of its own folder and is not read")
    return content


def read_header(path: Path) -> dict[str, dict]:
    """Tensors of a safetensors file by name (dtype, shape, data_offsets), which cover the file, by its own library.

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
            if length > LARGEST_JSON:
                raise ValueError(f"its header has {length} bytes, and no more than {LARGEST_JSON} are read")
            header = parse_json(file.read(length), "its header")
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"it has {size} bytes and should have {end}")
        with safe_open(path, "np") as opened:
            if set(opened.keys()) != header.keys():
                raise ValueError("its header names a tensor twice")
    except (struct.error, SafetensorError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}; copy it again") from error
    return header


def count_parameters(folder: Path | str) -> int:
    """Number of weights stored in a model folder, from its headers; tied weights count once."""
    headers = [read_header(path) for path in weight_files(folder)]
    return sum(math.prod(entry["shape"]) for header in headers for entry in header.values())
