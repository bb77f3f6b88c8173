"""fetch: a published checkpoint, file by file from a model hub, to its place among the checkpoints."""

import io
import json
import logging
import pickle
import pickletools
import shutil
import tempfile
from collections.abc import Iterator, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from safetensors.torch import save_file
from transformers.dynamic_module_utils import get_relative_imports
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from scripts.lib.hub import client
from scripts.lib.models import own_code, taking
from scripts.lib.models.folders import require_few, validate_model_folder, weight_map
from scripts.lib.models.loadable import largest_weights, require_loadable
from scripts.lib.runtime import manifests
from scripts.lib.runtime.confined import more_memory
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.shortages import is_shortage, kind_and_message
from scripts.lib.runtime.untrusted import inside, one_line, read_json
from scripts.publish import describe, refuse

LARGEST_PICKLE = 2**23  # bytes, without the numbers of the tensors: some 20,000 tensors
PICKLE = "data.pkl"  # torch's name for that of a zip file
OLD_PICKLES = 5  # torch's old format begins with: magic number, version, system, tensors, names of what is stored
CALLS = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
ALLOWED = {"collections.OrderedDict", "torch.storage.UntypedStorage", "torch.storage.TypedStorage"}
ALLOWED |= {f"torch._utils.{name}" for name in TENSORS} | {f"torch.{kind.__name__}" for kind in torch._storage_classes}
MOST_COPIES = 4  # of pickled weights that are stored once: tied ones are written twice
SPARE = 2**30  # bytes of weight files that are no weights: masks, and what ties
MORE = 2**30  # bytes of memory beyond twice a pickle's size, to read it
PICKLED = (".bin", ".bin.index.json")
WEIGHTS = (".safetensors", ".safetensors.index.json", *PICKLED)


class Unusable(client.Unavailable):
    """What the hub gave is as it has it, and is no model that loads: this checkpoint is refused, whatever is tried."""


def fetch_checkpoint(
    resolved: dict, tokenizer: Path, state: Path, out: Path, code: dict[str, str], identity: dict
) -> dict:
    """Fetch a checkpoint and return its manifest; refused, with an empty folder, if its files are no model that loads.

    Args:
        identity: what the manifest says of it besides.

    Raises:
        Unavailable: as of `fetch`, but for what is wrong with the files themselves.
    """
    try:
        fetch(resolved, tokenizer, state, out, code)
        with explained(resolved, out):
            require_loadable(out)
    except Unusable as error:
        logging.getLogger("trajquant").warning("refused: %s", error)
        return refuse(out, identity, str(error))
    return describe(out, identity)


def fetch(resolved: dict, tokenizer: Path, state: Path, out: Path, code: dict[str, str]) -> None:
    """Fetch a checkpoint; what is fetched stays in `state`, so that nothing comes twice; who calls deletes it.

    Args:
        resolved: repo, commit, and the files to fetch with their hashes.
        tokenizer: folder of the trajectory's tokenizer, whose files join the model's.
        state: folder that outlives this job if it fails.
        out: the checkpoint's model folder; whole or absent.
        code: Python files of the repository that its model needs, with their SHA-256.

    Raises:
        Unavailable: the hub does not give a file, or the model needs other code of its repository.
        Unusable: its files are no whole model, or far larger than it.
    """
    fetch_code(resolved, code, state)
    files = client.model_files(resolved["files"], client.origin(resolved), code)  # a lock may list anything
    weights = {name for name in files if name.endswith((".safetensors", ".bin"))}
    client.fetch_files(resolved | {"files": {name: files[name] for name in files.keys() - weights}}, state)
    with explained(resolved, state):
        chosen = weights_of(files.keys(), state)
        if not code:
            require_no_larger(sum(files[name]["bytes"] for name in chosen), state, resolved["repo"])
    client.fetch_files(resolved | {"files": {name: files[name] for name in files if name in chosen}}, state)
    with manifests.staged_folder(out) as scratch, explained(resolved, state, scratch):
        for name in files:
            if not name.endswith(WEIGHTS) or (name in chosen and not name.endswith(PICKLED)):
                manifests.link_file(inside(state, name), inside(scratch, name))
        if any(name.endswith(PICKLED) for name in chosen):
            convert(sorted(state / name for name in chosen), scratch)
        for path in tokenizer.iterdir():
            if path.name not in (*client.CONFIG_FILES, manifests.TIMESTAMP) and not (scratch / path.name).exists():
                manifests.link_file(path, scratch / path.name)
        taking.clean(scratch)
        set_classes(scratch / "config.json", resolved["repo"], code)
        if code:
            own_code.mark(scratch, code)
            own_code.is_trusted(scratch)  # now, and not when it is loaded first
        validate_model_folder(scratch)


@contextmanager
def explained(resolved: dict, *folders: Path) -> Iterator[None]:
    """Turn what is wrong with the files in some folders into Unusable, with their repository and commit.

    That is whatever is raised, for nobody knows all that others' files can make libraries raise, unless the machine or
    the hub failed; the log has the whole of it.
    """
    try:
        yield
    except client.Unavailable:
        raise
    except Exception as error:
        if is_shortage(error):
            raise
        logging.getLogger(__name__).info("what is refused", exc_info=True)
        message = str(error) if isinstance(error, ValueError) else f"it cannot be read ({kind_and_message(error)})"
        for folder in folders:
            message = message.replace(f"{folder}/", "").replace(str(folder), "it")
        where = client.at(resolved["repo"], resolved["commit"])
        raise Unusable(
            f"{where}: {one_line(message)} (it is as the hub has it: leave it out, or tell its owners)"
        ) from error


def weights_of(names: Set[str], state: Path) -> set[str]:
    """Those of the fetched files that transformers would load the model from, with their index if it has one.

    Raises:
        ValueError: there are none or too many, or the index names others.
    """
    kind = "bin" if any(name.endswith(".bin") for name in names) else "safetensors"
    whole, index = client.WHOLE[kind], client.INDEX[kind]
    if whole in names:
        return {whole}
    if index not in names:
        raise ValueError(f"it has neither {whole} nor {index}, by which transformers finds weights")
    chosen = set(weight_map(state / index).values())
    require_few(chosen, index)
    if others := sorted(name for name in chosen if name not in names or not name.endswith(f".{kind}")):
        raise ValueError(f"{index} names {others[0]!r}, which is no weight file of the repository")
    return {index, *chosen}


def require_no_larger(size: int, state: Path, repo: str) -> None:
    """Check that weight files of so many bytes can be those of the model of a fetched config, before they are fetched.

    Raises:
        Unavailable: transformers has no class for the model.
        ValueError: they are far larger, or transformers makes no model of it.
    """
    if size <= SPARE:
        return
    with tempfile.TemporaryDirectory(prefix="trajquant-config-") as scratch:
        shutil.copy(state / "config.json", scratch)
        taking.clean(Path(scratch))
        set_classes(Path(scratch, "config.json"), repo, {})
        most = largest_weights(scratch)
    if size > most + SPARE:
        raise ValueError(f"its weight files have {size} bytes, and the model of its config.json {most} at most")


def convert(files: list[Path], out: Path) -> None:
    """Write pickled weights as safetensors, a file for a file; pickles are read as weights only, never executed.

    Args:
        files: the pickles, and their index if there is one.

    Raises:
        ValueError: a file holds anything but tensors, or tensors that are larger than what it stores.
    """
    for path in files:
        if path.name == client.INDEX["bin"]:
            renamed = {name: safe_name(file) for name, file in weight_map(path).items()}
            content = {"metadata": {}} | read_json(path) | {"weight_map": renamed}
            (out / client.INDEX["safetensors"]).write_text(json.dumps(content, indent=1))
            continue
        try:
            save_file(apart(read_pickle(path)), out / safe_name(path.name))
        except Exception as error:  # also of objects that claim to be dictionaries and tensors
            if is_shortage(error) or str(path) in str(error):
                raise
            raise ValueError(f"{path} cannot be read as weights ({kind_and_message(error)})") from error


def read_pickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, by name.

    Raises:
        ValueError: it holds something else, is damaged, or has tensors that are larger than what it stores.
    """
    try:
        require_weights_only(path)
        with more_memory(2 * path.stat().st_size + MORE):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Excess:
        raise
    except MemoryError:
        raise Excess(f"{path} takes far more memory than its size, and is not opened") from None
    except Exception as error:
        if is_pickle(path) and (isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)):
            raise ValueError(f"{path} holds more than weights and is not opened") from error
        raise ValueError(f"{path} is damaged or cut off, and cannot be read as weights") from error
    tensors = found.items() if isinstance(found, dict) else [(None, None)]
    if not all(isinstance(name, str) and is_plain(tensor) for name, tensor in tensors):
        raise ValueError(f"{path} holds something else than dense tensors by name, and is not converted")
    require_stored(found, path)
    return found


def require_weights_only(path: Path) -> None:
    """Check that reading a pickle calls nothing but what makes tensors of stored numbers, and makes nothing large.

    torch's own reading of weights also allows what makes as many bytes as a number in the pickle says.

    Raises:
        Excess: it asks for more, or is larger than that of any model, or compressed.
        Exception: of zipfile and pickletools, where it is damaged or no pickle.
    """
    for pickled in pickles_in(path):
        for operation, argument, _ in pickletools.genops(pickled):
            if operation.name in CALLS and str(argument).replace(" ", ".") not in ALLOWED:
                asked = f": it asks for {str(argument).replace(' ', '.')}" if argument else ""
                raise Excess(f"{path} holds more than weights and is not opened{asked}")


def pickles_in(path: Path) -> Iterator[io.BytesIO]:
    """The pickles of a file that torch saved: one in a zip file, several at the beginning of one in the old format.

    They are read as torch reads them: of two lists of records in a zip file, Python and torch may choose another one.

    Raises:
        Excess: the zip file is compressed, or its pickle larger than `LARGEST_PICKLE`.
        Exception: of torch, where it is damaged or has no pickle.
    """
    with open(path, "rb") as file:
        begins_as_zip = file.read(4) == b"PK\3\4"  # by which torch tells them
    if begins_as_zip != is_zipfile(path):
        raise Excess(f"{path} is damaged or cut off, or a zip file to some readers only, and cannot be read as weights")
    if begins_as_zip:
        reader = torch._C.PyTorchFileReader(str(path))
        sizes = {name: reader.get_record_size(name) for name in reader.get_all_records()}
        with ZipFile(path) as opened:
            packed = any(record.compress_type != ZIP_STORED for record in opened.infolist())
        if packed or sum(sizes.values()) > path.stat().st_size or sizes[PICKLE] > LARGEST_PICKLE:
            raise Excess(f"{path} is compressed, or has a pickle of more than {LARGEST_PICKLE} bytes: not opened")
        yield io.BytesIO(reader.get_record(PICKLE))
        return
    with open(path, "rb") as file:
        beginning = io.BytesIO(file.read(LARGEST_PICKLE))
    for _ in range(OLD_PICKLES):
        yield beginning


class Excess(ValueError):
    """A pickle asks for more than weights."""


def require_stored(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Check that no tensor of a pickle is larger than what is stored of it, nor all together than the file allows.

    Raises:
        ValueError: they are, by strides of 0, overlaps, or the same memory under many names.
    """
    size, total, stored = path.stat().st_size, 0, {}
    for name, tensor in tensors.items():
        needed, memory = tensor.numel() * tensor.element_size(), tensor.untyped_storage()
        if needed > memory.nbytes():
            raise ValueError(f"{path}: {name} has {needed} bytes by its shape, of {memory.nbytes()} that are stored")
        stored[memory.data_ptr()] = memory.nbytes()
        total += needed
    if total > MOST_COPIES * size or sum(stored.values()) > size:
        raise ValueError(f"{path} has {size} bytes, and its tensors {total} by their shapes: they are not written")


def is_plain(tensor: object) -> bool:
    """Whether this is a dense tensor with data."""
    return isinstance(tensor, torch.Tensor) and (tensor.layout, tensor.device.type) == (torch.strided, "cpu")


def is_pickle(path: Path) -> bool:
    """Whether a file begins as those that torch saves do, a zip file or a pickle."""
    with open(path, "rb") as file:
        return file.read(1) == b"\x80" or is_zipfile(path)


def apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors each with memory of its own, as safetensors asks for: copies of those that share it (tied weights)."""
    seen, found = set(), {}
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        whole = tensor.contiguous()
        found[name] = whole.clone() if memory in seen and whole is tensor else whole
        seen.add(memory)
    return found


def safe_name(name: str) -> str:
    """`pytorch_model-00001-of-00002.bin` -> `model-00001-of-00002.safetensors`."""
    return name.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"


def fetch_code(resolved: dict, code: dict[str, str], state: Path) -> None:
    """Fetch the pinned Python files of a repository, before all else; nothing is run.

    Raises:
        Unavailable: a file is not what was pinned, or imports another one of the repository; it is fetched again.
    """
    where = client.at(resolved["repo"], resolved["commit"])
    if missing := sorted(code.keys() - resolved["files"].keys()):
        lock = "the lock was made before its code was pinned: run `make resolve` again"
        raise client.Unavailable(f"{where}: {', '.join(missing)} is not locked; {lock}")
    if code:
        client.fetch_files(resolved | {"files": {name: resolved["files"][name] for name in code}}, state)
    for name, expected in code.items():
        found = manifests.sha256(state / name)
        if found != expected:
            (state / name).unlink()
            raise client.Unavailable(
                f"{where}: {name} has the SHA-256 {found}, and `remote_code` of the trajectory pins {expected}; "
                "read the file at that commit, and pin the new hash if you trust it"
            )
        others = sorted({f"{module}.py" for module in get_relative_imports(state / name)} - code.keys())
        if others:
            raise client.Unavailable(
                f"{where}: {name} imports {', '.join(others)}; read and pin that in `remote_code` too"
            )


def set_classes(path: Path, repo: str, code: dict[str, str]) -> None:
    """Let a config refer to the repository's own classes where they are pinned, and to none where they are not.

    Raises:
        Unavailable: transformers has no class for the model, and it is not pinned where the repository has one.
    """
    config = read_json(path)
    references, kind = config.pop("auto_map", None) or {}, config.get("model_type")
    if code:
        config["auto_map"] = own_code.local_references(references)
        if others := sorted(own_code.files_of(config["auto_map"]) - code.keys()):
            raise client.Unavailable(
                f"{repo}: its config takes classes from {', '.join(others)}; read and pin that too"
            )
        if "AutoModelForCausalLM" not in config["auto_map"]:
            raise client.Unavailable(
                f"{repo}: its config names no class of its own for `{kind}`; take `remote_code` out"
            )
    elif not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise client.Unavailable(
            f"{repo}: transformers has no class `{kind}`; own code is run only where `remote_code` of the trajectory "
            "pins it: list its Python files there, each with its SHA-256, once you have read them"
        )
    if references:
        path.unlink()  # a link to what was fetched
        path.write_text(json.dumps(config, indent=1))


if __name__ == "__main__":
    open_log(snakemake.log[0], f"fetch {snakemake.wildcards.trajectory} {snakemake.wildcards.checkpoint}")
    params, asked = snakemake.params, snakemake.params.published
    code = asked["remote_code"]
    resolved = asked["locked"] or client.resolve(
        asked["repo"], asked["revision"], partial(client.model_files, code=code)
    )
    origin = {"repo": asked["repo"], "name": asked["name"], "commit": resolved["commit"]}
    places = Path(snakemake.input.tokenizer), Path(params.state), Path(snakemake.output.model)
    manifest = fetch_checkpoint(resolved, *places, code, params.identity | origin)
    manifests.write(snakemake.output.manifest, manifest)
    shutil.rmtree(params.state)
