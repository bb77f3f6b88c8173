"""A repository's own code, without which its model does not run: run only where fetch marked it, and only as pinned.

The marker is a file of a model folder that no hub and no user's folder can bring: `fetch` takes no such file, nor does
`publish`. It has sha256sum's format: `sha256sum --check remote_code.sha256` is the check by hand.
"""

import json
import logging
import shutil
from pathlib import Path

from scripts.lib.runtime import manifests
from scripts.lib.runtime.untrusted import read_json

MARKER = "remote_code.sha256"
# Keys of a config, at any depth, by which transformers takes code from a hub, other files or other implementations ...
CHOICES = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
CHOICES += ("experts_implementation", "_experts_implementation", "_experts_implementation_internal")
CHOICES += ("use_kernels", "kernel_config", "fusion_config", "distributed_config")
HARMLESS = (None, False, "eager", "sdpa", "grouped_mm", "batched_mm")  # ... and values that choose its own code
CLASSES = ("AutoConfig", "AutoModelForCausalLM")  # what is loaded here, as `auto_map` of config.json calls it


def mark(folder: Path, pins: dict[str, str]) -> None:
    """Allow the Python files of a model folder to run: {file: sha256}, as its trajectory pins them."""
    (folder / MARKER).write_text("".join(f"{pins[name]}  {name}\n" for name in sorted(pins)))


def pinned(folder: Path | str) -> dict[str, str]:
    """The Python files that the marker of a model folder allows, with their SHA-256; none without a marker."""
    path = Path(folder) / MARKER
    lines = path.read_text().splitlines() if path.is_file() else []
    return {name: digest for digest, name in map(str.split, lines)}


def is_trusted(folder: Path | str) -> bool:
    """Whether the code in a model folder may run: `trust_remote_code` of all that loads the folder.

    Raises:
        ValueError: there is a marker, but the Python files are not those that it allows, or the configs name others.
    """
    folder, pins = Path(folder), pinned(folder)
    if not pins:
        return False
    found = {str(path.relative_to(folder)): manifests.sha256(path) for path in folder.rglob("*.py")}
    wrong = sorted(name for name in found.keys() | pins.keys() if found.get(name) != pins.get(name))
    if wrong:
        raise ValueError(
            f"{folder}: {', '.join(wrong)}: not the code that was pinned ({MARKER}), so nothing of it is run; "
            "delete the folder to make it again"
        )
    for name in ("config.json", "tokenizer_config.json"):
        config = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        others = sorted(files_of(config.get("auto_map")) - pins.keys())
        if others:
            raise ValueError(f"{folder}/{name}: `auto_map` names {', '.join(others)}, which {MARKER} does not have")
    return True


def drop_choices(config: Path) -> None:
    """Write a config.json anew without what chooses code, or outputs without names; else it stays as it is.

    Raises:
        ValueError: it is no JSON object, or none that any model has.
    """
    content = read_json(config)
    if dropped := sorted(set(choices(content))):
        config.unlink()  # it may be a link to what was fetched
        config.write_text(json.dumps(content, indent=1))
        logging.getLogger("trajquant").warning(
            "config.json: %s chooses code or a form of outputs, and is left out", ", ".join(dropped)
        )


def choices(content: dict | list) -> list[str]:
    """Take what chooses code out of a config, at any depth, and give its keys."""
    values, found = content, []
    if isinstance(content, dict):
        found = [name for name, value in content.items() if name in CHOICES and value not in HARMLESS]
        found += [name for name in ("return_dict",) if content.get(name, True) is not True]
        for name in found:
            del content[name]
        values = content.values()
    return found + [name for value in values if isinstance(value, dict | list) for name in choices(value)]


def files_of(references: dict | list | str | None) -> set[str]:
    """The files that an `auto_map` takes classes from; `repo--module.Class` is a file of another repository.

    Raises:
        ValueError: it holds something else than names of classes.
    """
    if isinstance(references, str):
        return {f"{references.rpartition('.')[0]}.py"}
    if not isinstance(references, dict | list | None):
        raise ValueError(f"`auto_map` holds {type(references).__name__}, which names no class; take `remote_code` out")
    values = references.values() if isinstance(references, dict) else references or []
    return {file for value in values for file in files_of(value)}


def local_references(references: object) -> dict:
    """Those entries of an `auto_map` that are used here, all of them to files of the model's own folder.

    Raises:
        ValueError: it does not give a name for each class.
    """
    if not isinstance(references, dict):
        raise ValueError(f"`auto_map` of config.json is {type(references).__name__}, and not a class for each use")
    found = {name: references[name] for name in CLASSES if name in references}
    if wrong := [name for name, reference in found.items() if not isinstance(reference, str)]:
        raise ValueError(f"`auto_map` of config.json gives {wrong[0]} no name of a class")
    return {name: reference.rpartition("--")[2] for name, reference in found.items()}


def carry(source: Path, target: Path) -> None:
    """Take the code of a model folder, and its marker, along to another one; nothing where there is none."""
    if is_trusted(source):
        for name in (*pinned(source), MARKER):
            shutil.copyfile(source / name, target / name)
