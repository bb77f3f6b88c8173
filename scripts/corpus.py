"""corpus: collect documents, remove near-duplicates, split them by document into train, validation and calibration."""

import ast
import dataclasses
import glob
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import platform
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import polars as pl
import pyarrow.parquet

from scripts.lib.data.duplicates import OVERLAP_WORDS, near_duplicates, overlap
from scripts.lib.hub import locks
from scripts.lib.hub.client import commit_of_dataset
from scripts.lib.runtime import manifests
from scripts.lib.runtime.confined import more_memory, streamed
from scripts.lib.runtime.logs import Progress, open_log
from scripts.lib.runtime.untrusted import one_line

SPLITS = ("train", "validation", "calibration")
ROW_GROUP = 16_384
ROW_MEMORY, ROW_SECONDS = 4 * 2**30, 300  # bytes, and time on a core for the next row of a hub; in config/README.md
LINE_MEMORY = 2 * 2**30  # bytes for the next row where files are read by lines, not by groups of rows; as above
LONGEST = 10**7  # characters of a document, of which tokenizers take 0.2 to 0.4 KB each; in config/README.md
ADDRESSES = {"hf", "file", "local", "zip", "tar", "gzip", "bz2", "xz", "zstd", "lz4"}  # of what is read for a corpus
PLACES = {"name", "version", "description", "data_files", "data_dir", "features"}  # of a configuration in a card
Document = tuple[str, str]  # text, source


def corpus(definition: dict, name: str, out: dict[str, str], manifest_path: str) -> dict:
    """Write one parquet file a split (columns document, text, source; sorted by document) and the corpus's manifest.

    A document's id is the first 16 hex digits of the SHA-256 of its text, and its split follows from the id alone, so
    that a document added to the source never moves another one. Equal definitions and packages give equal bytes.

    Args:
        definition: the corpus's file: `source` (docstrings, files or hub) with its keys, `fractions` (of validation and
            calibration; the rest is train), and optionally `minimum_characters`, `documents` (so many) and
            `near_duplicates` (drop what shares that much of its 5-shingles with longer ones).
        name: the corpus's name.
        out: path of each split's parquet file.
        manifest_path: where to write the manifest, which is also returned.

    Raises:
        ValueError: the source is missing or empty, or a split with a share above zero gets no document.
    """
    definition = definition | commit_of(definition)
    table, removed = without_duplicates(collect(definition, name), definition.get("near_duplicates"))
    parts = split(table, definition["fractions"], name)
    shares = overlap(*(parts[key]["text"] for key in SPLITS))
    manifest = {
        "kind": "corpus",
        "corpus": name,
        "source": definition["source"],
        "definition": definition,
        "splits": {key: write_split(part, out[key]) for key, part in parts.items()},
        "overlap": {"words": OVERLAP_WORDS} | dict(zip(SPLITS[1:], shares, strict=True)),
        "duplicates_removed": sum(removed.values()),
        **removed,
        "versions": source_versions(definition),
    }
    manifests.write(manifest_path, manifest)
    logging.getLogger("trajquant").info("%s, overlap with train %s", manifest["splits"], manifest["overlap"])
    return manifest


def write_split(part: pl.DataFrame, path: str) -> dict:
    """Write one split as parquet, the same bytes for the same documents, and return its entry in the manifest."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    part.write_parquet(path, compression="zstd", compression_level=3, row_group_size=ROW_GROUP)
    characters = int(part["text"].str.len_chars().sum())
    return {"documents": part.height, "characters": characters, "sha256": manifests.sha256(path)}


def collect(definition: dict, name: str) -> list[Document]:
    """The documents of a source with at least `minimum_characters`, at most `documents` of them, in its order.

    Raises:
        ValueError: unknown source, no document at all, one that is longer than `LONGEST`, or fewer than `documents`.
    """
    readers = {"docstrings": docstrings, "files": files, "hub": hub}
    if definition["source"] not in readers:
        raise ValueError(f"corpus {name}: source is {definition['source']!r}, not one of {', '.join(readers)}")
    wanted = definition.get("documents")
    minimum = definition.get("minimum_characters", 1)
    found = []
    for text, source in readers[definition["source"]](definition):
        if len(text) > LONGEST:
            raise ValueError(
                f"corpus {name}: {source} has {len(text)} characters, {LONGEST} at most are read: split it"
            )
        if len(text) >= minimum:
            found.append((text, source))
            if len(found) == wanted:
                break
    if not found:
        raise ValueError(f"corpus {name}: no document of at least {minimum} characters; check its definition")
    if wanted and len(found) < wanted:
        raise ValueError(
            f"corpus {name}: the source has only {len(found)} documents of at least {minimum} characters, "
            f"{wanted} are asked for; lower `documents` or name more sources"
        )
    return found


def docstrings(definition: dict) -> Iterator[Document]:
    """Docstrings of modules, classes and functions in the installed packages named by `packages`, in path order.

    Files are parsed, never imported; folders of tests and files without a triple quote hold next to no documentation.

    Raises:
        ValueError: a package is not installed.
    """
    folders = [package_folder(package) for package in definition["packages"]]
    paths = [(path, folder.parent) for folder in folders for path in sorted(folder.rglob("*.py"))]
    progress = Progress(len(paths), "files")
    for done, (path, root) in enumerate(paths):
        progress.update(done)
        name = path.relative_to(root)
        if {"test", "tests"} & set(name.parts):
            continue
        content = path.read_bytes()
        if b'"""' not in content and b"'''" not in content:
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(content)
        except (SyntaxError, ValueError) as error:
            logging.getLogger("trajquant").info("%s is not valid Python, left out: %s", path, error)
            continue
        for text, scope in docstrings_of(tree, ""):
            yield text, f"{name.as_posix()}:{scope}"


def docstrings_of(node: ast.AST, scope: str) -> Iterator[tuple[str, str]]:
    """Cleaned docstrings of a module, class or function and of all that is defined inside it, with dotted names."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        if not isinstance(node, ast.Module):
            scope = f"{scope}.{node.name}" if scope else node.name
        text = ast.get_docstring(node, clean=False)
        if text:
            # A lone surrogate in a string literal has no UTF-8 form.
            yield inspect.cleandoc(text).encode("utf-8", "ignore").decode().strip(), scope
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield from docstrings_of(child, scope)


def package_folder(package: str) -> Path:
    """The folder of a top-level package that pip installed, found without importing it.

    Raises:
        ValueError: it is not installed, or is a single module.
    """
    spec = importlib.util.find_spec(package) if package in installed() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"package {package!r} of the corpus is not an installed package (names are those of `import`); "
            f"add it to envs/trajquant.in and install it, or take it off `packages`"
        )
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def installed() -> dict[str, list[str]]:
    """Distributions by the top-level names that they install; the standard library has none."""
    return dict(importlib.metadata.packages_distributions())


def files(definition: dict) -> Iterator[Document]:
    """Documents of the files that match the globs in `paths`, relative to the working directory, in path order.

    A `.jsonl` or `.parquet` file has one document a row, in the field `text_field`; any other file is one document.

    Raises:
        ValueError: a glob matches no file, a field is missing or no string, a file is not UTF-8.
    """
    matched = set()
    for pattern in definition["paths"]:
        here = {path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()}
        if not here:
            raise ValueError(f"{pattern!r} in `paths` of the corpus matches no file below {Path.cwd()}")
        matched |= here
    field = definition.get("text_field", "text")
    for path in sorted(matched):
        suffix = Path(path).suffix
        if suffix == ".jsonl":
            yield from jsonl_rows(path, field)
        elif suffix == ".parquet":
            yield from parquet_rows(path, field)
        else:
            try:
                yield Path(path).read_text(encoding="utf-8"), path
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8 text: {error}") from error


def jsonl_rows(path: str, field: str) -> Iterator[Document]:
    """Documents of a JSON-lines file."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
                    raise ValueError(f"{path}, line {number} is not valid JSON: {error}") from error
                yield text_of(row, field, f"{path}, line {number}"), f"{path}:{number}"


def parquet_rows(path: str, field: str) -> Iterator[Document]:
    """Documents of a parquet file, read in batches."""
    with pyarrow.parquet.ParquetFile(path) as file:
        columns = [field] if field in file.schema_arrow.names else None
        rows = (row for batch in file.iter_batches(columns=columns) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield text_of(row, field, f"{path}, row {number}"), f"{path}:{number}"


def hub(definition: dict) -> Iterator[Document]:
    """Documents of a dataset, streamed through `datasets`: `dataset`, `name`, `split`, `revision`, `text_field`.

    It is read in a child process with bounds: what a stranger says of files may make their readers run without end.

    Raises:
        ValueError: a row has no text, one that is too long or takes too much memory or time, or the dataset cannot be
            read.
    """
    dataset, revision, number = definition["dataset"], definition.get("revision"), 0
    progress = Progress(definition.get("documents") or 10**9, "documents")
    try:
        for number, text in enumerate(streamed(lambda: texts_of_hub(definition), ROW_MEMORY, ROW_SECONDS), start=1):
            progress.update(number)
            yield text, f"{dataset}:{number}"
    except ValueError as error:
        where = f"{dataset} at {revision}" if revision else dataset
        raise ValueError(f"{where}, row {number + 1}: {error}") from error


def texts_of_hub(definition: dict) -> Iterator[str]:
    """The text of each row of a dataset; raises ValueError."""
    import datasets

    if locks.is_published(definition):
        only_from_the_hub()
        only_in_the_cache()
    which, field = (definition.get("name"), definition.get("revision")), definition.get("text_field", "text")
    rows, most = None, ROW_MEMORY
    while True:
        try:
            if rows is None:
                builder = datasets.load_dataset_builder(definition["dataset"], which[0], revision=which[1])
                if locks.COMMIT.fullmatch(which[1] or "") and builder.hash != which[1]:
                    raise NotPlainError(f"the hub gives it at {one_line(builder.hash, 60)} instead; try again later")
                most = require_plain(builder)
            with more_memory(most):
                rows = rows or iter(undecoded(builder.as_streaming_dataset(split=definition["split"])))
                row = next(rows, None)
        except MemoryError:
            raise ValueError(f"it takes more than {most / 1e9:.1f} GB") from None
        except NotPlainError:
            raise
        except Exception as error:  # of its many readers
            said = str(error).rpartition(" on the Hugging Face Hub either: ")[2]  # before it, a folder of this machine
            raise ValueError(f"`datasets` cannot read it: {one_line(said)}") from error
        if row is None:
            return
        text = text_of(row, field, "it")
        if len(text) > LONGEST:
            raise ValueError(f"it has {len(text)} characters, {LONGEST} at most are read")
        yield text


class NotPlainError(ValueError):
    """A dataset asks for more than that its files be read, or is another one."""


def require_plain(builder) -> int:
    """Check how `datasets` is to read files, which their repository says by its card, other files, and their names.

    Returns:
        the bytes that a row may take; a packed line grows a thousandfold before it can be seen to be too long.

    Raises:
        NotPlainError: by a reader of more than text and numbers, or with settings, of which some are programs (patterns
            for pandas) and others change what is read.
    """
    from datasets.packaged_modules.arrow.arrow import Arrow
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet
    from datasets.packaged_modules.text.text import Text

    if not isinstance(builder, Arrow | Csv | Json | Parquet | Text):
        raise NotPlainError(
            "its files are none of csv, tsv, jsonl, json, parquet, txt or arrow, which are read for texts"
        )
    config = builder.config
    usual = type(config)()
    names = [field.name for field in dataclasses.fields(config) if field.name not in PLACES]
    chosen = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(usual, name)}
    if chosen not in ({}, {"sep": "\t"}):  # which files called .tsv have
        raise NotPlainError(
            f"its card sets {', '.join(chosen)}; of a card's `configs` only config_name, data_files, data_dir, default "
            "and features are taken; make its files jsonl or parquet, and name them in a corpus of `source: files`"
        )
    return ROW_MEMORY if isinstance(builder, Arrow | Parquet) else LINE_MEMORY


def undecoded(dataset):
    """A streamed data set whose images and sounds, which its rows name by any path, are not opened."""
    return dataset.decode(False) if dataset.features else dataset


def only_from_the_hub() -> None:
    """Let `datasets` in this process open no addresses but a hub's and, within its files, archives.

    What a dataset says of its files can name any, also of machines that only this one reaches.
    """
    import fsspec

    class Elsewhere(fsspec.AbstractFileSystem):
        cachable = False

        def __init__(self, *_, **__):
            raise ValueError("it names files that are not of its repository")

    for protocol in {*fsspec.available_protocols()} - ADDRESSES:
        fsspec.register_implementation(protocol, Elsewhere, clobber=True)


def only_in_the_cache() -> None:
    """Let `datasets` in this process call no folders of its cache by what a card says, unless that is a plain name.

    It reads what is known of a data set in such a folder, and removes one that is empty.
    """
    from datasets import DatasetBuilder

    called = DatasetBuilder._relative_data_dir

    def checked(builder, *args, **kwargs) -> str:
        for key, value in (("config_name", builder.config_id), ("version", str(builder.config.version))):
            if "/" in value or value in ("", ".", "..") or not value.isprintable():
                raise NotPlainError(f"its card has a `{key}` that is no name: {one_line(repr(value), 200)}")
        return called(builder, *args, **kwargs)

    DatasetBuilder._relative_data_dir = checked


def commit_of(definition: dict) -> dict[str, str]:
    """`revision` of a hub's data set as the commit that it is now; it is kept in the manifest, with the definition."""
    if not locks.is_published(definition) or locks.at_commit(definition):
        return {}
    return {"revision": commit_of_dataset(definition["dataset"], locks.revision_of(definition))}


def text_of(row: dict, field: str, where: str) -> str:
    """The text of a row, or a ValueError that names the place and the field."""
    row = row if isinstance(row, dict) else {}
    if isinstance(row.get(field), str):
        try:
            row[field].encode()
        except UnicodeEncodeError as error:  # of JSON's "\\ud800"
            raise ValueError(f"{where} has half a character ({error.reason}), which no UTF-8 has") from error
        return row[field]
    has = ", ".join(row) or "no field"
    raise ValueError(f"{where} has no text in field {field!r} (`text_field`); it has {has}")


def without_duplicates(found: list[Document], share: float | None) -> tuple[pl.DataFrame, dict[str, int]]:
    """Documents with their ids, sorted by id, without repeated ones, and how many were removed.

    Of texts equal but for white space the first found is kept; near-duplicates go too unless `share` is None.
    """
    first = {}
    for text, source in found:
        first.setdefault(" ".join(text.split()), (hashlib.sha256(text.encode()).hexdigest()[:16], text, source))
    table = pl.DataFrame(list(first.values()), schema=["document", "text", "source"], orient="row").sort("document")
    kept = table if share is None else table.filter(pl.Series(~near_duplicates(table["text"], share)))
    return kept, {"exact_duplicates": len(found) - table.height, "near_duplicates": table.height - kept.height}


def split(table: pl.DataFrame, fractions: dict[str, float], name: str) -> dict[str, pl.DataFrame]:
    """Cut a table by a hash of the document id: shares `fractions` of validation and calibration, the rest is train.

    Raises:
        ValueError: the shares are below 0 or sum to more than 1, or a split with a share above zero is empty.
    """
    shares = {"train": 1 - sum(fractions.values())} | fractions
    if min(shares.values()) < -1e-9 or set(shares) != set(SPLITS):
        raise ValueError(f"corpus {name}: fractions {fractions} must name validation and calibration, sum at most 1")
    digests = (hashlib.sha256(f"split {document}".encode()).digest() for document in table["document"])
    position = pl.Series([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests], dtype=pl.Float64)
    validation, calibration = shares["validation"], shares["validation"] + shares["calibration"]
    parts = {
        "train": table.filter(position >= calibration),
        "validation": table.filter(position < validation),
        "calibration": table.filter((position >= validation) & (position < calibration)),
    }
    for key, part in parts.items():
        if part.is_empty() and shares[key] > 1e-9:
            raise ValueError(
                f"corpus {name}: its {table.height} documents leave split {key} (share {shares[key]:g}) empty; "
                f"add documents or change `fractions`"
            )
    return parts


def source_versions(definition: dict) -> dict[str, str]:
    """Versions of what shapes the corpus, among them those whose docstrings it holds."""
    names = ["numpy", "polars"] + (["datasets"] if definition["source"] == "hub" else [])
    if definition["source"] == "docstrings":
        names += sorted({name for package in definition["packages"] for name in installed()[package]})
    return {"python": platform.python_version()} | manifests.versions(tuple(names))


if __name__ == "__main__":
    open_log(snakemake.log[0], f"corpus {snakemake.params.corpus}")
    out = {key: snakemake.output[key] for key in SPLITS}
    corpus(snakemake.params.definition, snakemake.params.corpus, out, snakemake.output.manifest)
