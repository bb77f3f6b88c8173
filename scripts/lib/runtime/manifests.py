"""Manifests: the small JSON file beside each heavy folder, by whose content the workflow decides what to rerun."""

import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMESTAMP = ".snakemake_timestamp"  # a file that Snakemake puts into folders
PACKAGES = (  # of all models; a quantized one's library adds its own
    "torch",
    "transformers",
    "scipy",
    "lm_eval",
    "tokenizers",
    "datasets",
    "numpy",
    "polars",
)


def sha256(path: Path | str) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_files(folder: Path | str) -> dict[str, dict]:
    """`{relative path: {"bytes": int, "sha256": str}}` of every file below a folder, sorted by path."""
    folder = Path(folder)
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != TIMESTAMP)
    return {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in paths}


def weights_hash(files: dict[str, dict]) -> str:
    """One SHA-256 for all safetensors of a folder, from `describe_files`; equal weights files give equal hashes."""
    lines = [f"{name} {entry['sha256']}" for name, entry in sorted(files.items()) if name.endswith(".safetensors")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions of the packages that shape numbers."""
    return {name: importlib.metadata.version(name) for name in names}


def read(path: Path | str) -> dict:
    """Read a manifest.

    Raises:
        ValueError: the file is not a JSON object; the message names it.
    """
    try:
        content = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object; delete it and run again")
    return content


def write(path: Path | str, manifest: dict) -> None:
    """Write a manifest in one atomic step, keys in the order given."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(temporary, path)


@contextmanager
def staged_folder(target: Path | str) -> Iterator[Path]:
    """A scratch folder beside `target` that takes its place when the block ends without an error.

    Libraries save models file by file, so a killed job could leave half a model behind; here the target either is
    whole or does not exist. What an earlier, killed attempt left is removed first.
    """
    target = Path(target)
    scratch = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        shutil.rmtree(target, ignore_errors=True)
        os.replace(scratch, target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def link_file(source: Path | str, target: Path | str) -> None:
    """Copy a file by a hard link, which costs no space; across file systems by copying."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        shutil.copy2(source, target)


def link_tree(source: Path | str, target: Path | str) -> None:
    """Copy a folder with `link_file`."""
    shutil.copytree(source, target, copy_function=link_file, ignore=shutil.ignore_patterns(TIMESTAMP))
