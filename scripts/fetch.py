"""fetch: a published checkpoint, file by file from a model hub, to its place among the checkpoints."""

import json
import shutil
from functools import partial
from pathlib import Path
from zipfile import is_zipfile

import torch
from safetensors.torch import save_file
from transformers.dynamic_module_utils import get_relative_imports
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from scripts.lib.hub import client
from scripts.lib.models import own_code
from scripts.lib.models.folders import validate_model_folder
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import open_log
from scripts.publish import describe


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
    """
    files = {name: entry for name, entry in resolved["files"].items() if name in code or not name.endswith(".py")}
    resolved = resolved | {"files": files}
    fetch_code(resolved, code, state)
    client.fetch_files(resolved, state)
    with manifests.staged_folder(out) as scratch:
        for name in files:
            if not name.endswith((".bin", ".bin.index.json")):
                manifests.link_file(state / name, scratch / name)
        if pickled := sorted(state / name for name in files if name.endswith(".bin")):
            convert(pickled, scratch)
        for path in tokenizer.iterdir():
            if path.name not in (*client.CONFIG_FILES, manifests.TIMESTAMP) and not (scratch / path.name).exists():
                manifests.link_file(path, scratch / path.name)
        own_code.drop_choices(scratch / "config.json")
        set_classes(scratch / "config.json", resolved["repo"], code)
        if code:
            own_code.mark(scratch, code)
            own_code.is_trusted(scratch)  # now, and not when it is loaded first
        validate_model_folder(scratch)


def convert(files: list[Path], out: Path) -> None:
    """Write pickled weights as safetensors, a file for a file; pickles are read as weights only, never executed.

    Raises:
        Unavailable: a file holds anything but tensors.
    """
    for path in files:
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        except Exception as error:
            raise client.Unavailable(f"{path.name} holds more than weights and is not opened: {error}") from error
        save_file(apart(tensors), out / safe_name(path.name))
    index = files[0].parent / client.INDEX["bin"]
    if len(files) > 1:
        content = json.loads(index.read_text())
        content["weight_map"] = {name: safe_name(file) for name, file in content["weight_map"].items()}
        (out / client.INDEX["safetensors"]).write_text(json.dumps(content, indent=1))


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
    where = f"{resolved['repo']} at {resolved['commit'][:12]}"
    if missing := sorted(code.keys() - resolved["files"].keys()):
        lock = "the lock was made before its code was pinned: run `make resolve` again"
        raise client.Unavailable(f"{where}: {', '.join(missing)} is not locked; {lock}")
    if code:
        client.fetch_files(resolved | {"files": {name: resolved["files"][name] for name in code}}, state)
    for name, expected in code.items():
        found = manifests.sha256(state / name)
        others = sorted({f"{module}.py" for module in get_relative_imports(state / name)} - code.keys())
        if found != expected:
            (state / name).unlink()
            raise client.Unavailable(
                f"{where}: {name} has the SHA-256 {found}, and `remote_code` of the trajectory pins {expected}; "
                "read the file at that commit, and pin the new hash if you trust it"
            )
        if others:
            raise client.Unavailable(
                f"{where}: {name} imports {', '.join(others)}; read and pin that in `remote_code` too"
            )


def set_classes(path: Path, repo: str, code: dict[str, str]) -> None:
    """Let a config refer to the repository's own classes where they are pinned, and to none where they are not.

    Raises:
        Unavailable: transformers has no class for the model, and it is not pinned where the repository has one.
    """
    config = json.loads(path.read_text())
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
    elif kind not in CONFIG_MAPPING:
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
    fetch(resolved, Path(snakemake.input.tokenizer), Path(params.state), Path(snakemake.output.model), code)
    origin = {"repo": asked["repo"], "name": asked["name"], "commit": resolved["commit"]}
    manifest = describe(Path(snakemake.output.model), params.identity | origin)
    manifests.write(snakemake.output.manifest, manifest)
    shutil.rmtree(params.state)
