"""fetch_dataset: one split of a data set that tasks read, in the hub's own conversion to parquet.

The hub converts data sets by itself, those too whose scripts `datasets` no longer runs, on a branch of its own, to
`<config>/<split>/0000.parquet`.
"""

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from scripts.lib.hub import client
from scripts.lib.hub.locks import CONVERTED
from scripts.lib.runtime import manifests
from scripts.lib.runtime.confined import confined
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.untrusted import one_line, parse_json

MOST_ROWS, MOST_DECODED = 10**7, 2 * 2**30  # rows and bytes of a split; in config/README.md
LONGEST = 10**5  # bytes of a text, which stands in many prompts as an example; in config/README.md
MOST_ITEMS = 1000  # of a row's lists, all told, as each may become a request to the model; in config/README.md
ITEM = 8  # bytes that a value takes at least once it is read, also one that is null
MEMORY, SECONDS = 4 * 2**30, 300  # bytes, and time on a core, to read it once
PLAIN = {"Value", "List", "LargeList", "Sequence", "Translation", "TranslationVariableLanguages"}


def fetch_dataset(repo: str, name: str, locked: dict | None, state: Path, data: Path, manifest: Path) -> None:
    """Fetch a file of a data set and write, beside it, where it comes from.

    Args:
        repo: `owner/name`.
        name: `<config>/<split>/0000.parquet`, with `default` where a task names no configuration.
        locked: commit, and the file's entry; without the entry the commit is asked for it, without a lock the branch.
        state: folder that outlives this job if it fails.
        data, manifest: where to write.

    Raises:
        Unavailable: the hub does not give it, or the split is not one file, or too large, or none of plain rows.
    """
    resolved = locked
    if not locked or not locked["files"]:
        resolved = resolve(repo, [name], locked["commit"] if locked else CONVERTED)
    entry = resolved["files"][name]
    require_small(entry, client.origin(resolved))  # a lock may say anything
    fetched = client.fetch_file(repo, resolved["commit"], entry["name"], entry, state, "dataset")
    try:
        confined(lambda: check(fetched), MEMORY, SECONDS)
    except ValueError as error:
        where = f"{client.at(repo, resolved['commit'])}: {entry['name']}"
        raise client.Unavailable(f"{where} cannot be read: {error}; take its task out, or tell its owners") from error
    content = {"bytes": fetched.stat().st_size, "sha256": manifests.sha256(fetched)}
    content["rows"] = pyarrow.parquet.read_metadata(fetched).num_rows
    data.unlink(missing_ok=True)
    manifests.link_file(fetched, data)
    origin = {"repo": repo, "commit": resolved["commit"], "file": entry["name"]}
    manifests.write(manifest, {"kind": "dataset", "status": "ok", **origin, **content})
    shutil.rmtree(state)


def check(path: Path) -> None:
    """Read a parquet file once, for what it would cost a reader: some megabytes can hold one text a billion times.

    Raises:
        ValueError: it is none, has too many rows or bytes, a text that is too long, columns that are more than numbers
            and text, or is not loaded.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"it is no parquet file ({error})") from error
    require_plain((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    load(file.schema_arrow.empty_table())
    rows = size = 0
    for batch in file.iter_batches(batch_size=256, use_threads=False):
        parts = [part for column in batch.columns for part in within(column)]
        if (longest := max(map(longest_text, parts), default=0)) > LONGEST:
            raise ValueError(f"it has a text of {longest} bytes, and {LONGEST} at most are read")
        items = sum(map(items_of_rows, batch.columns), np.zeros(batch.num_rows, int))
        if (most := items.max(initial=0)) > MOST_ITEMS:
            raise ValueError(f"it has a row whose lists have {most} items, and {MOST_ITEMS} at most are read")
        made = load(pyarrow.Table.from_batches([batch]))
        values = items.sum() + batch.num_rows * batch.num_columns
        rows, size = rows + batch.num_rows, size + max(batch.nbytes, made, ITEM * int(values))
        if rows > MOST_ROWS or size > MOST_DECODED:
            raise ValueError(f"it holds more than {MOST_ROWS} rows or {MOST_DECODED} bytes")
    if rows != file.metadata.num_rows:
        raise ValueError(f"it says that it has {file.metadata.num_rows} rows, and has {rows}")


def within(array: pyarrow.Array) -> Iterator[pyarrow.Array]:
    """A column that `datasets` knows, and all that is nested in it, at any depth."""
    kind, types = array.type, pyarrow.types
    if isinstance(array, pyarrow.ExtensionArray):
        yield from within(array.storage)
    elif types.is_dictionary(kind):
        yield from within(array.dictionary)
    else:
        yield array
        if types.is_nested(kind):
            inner = (
                [array.field(place) for place in range(kind.num_fields)] if types.is_struct(kind) else [array.values]
            )
            for part in inner:
                yield from within(part)


def longest_text(array: pyarrow.Array) -> int:
    """Bytes of the longest text, or of what is read like one; 0 of other columns."""
    kind, types = array.type, pyarrow.types
    if types.is_unicode(kind) or types.is_large_unicode(kind) or types.is_binary(kind) or types.is_large_binary(kind):
        return pyarrow.compute.max(pyarrow.compute.binary_length(array)).as_py() or 0
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return longest_text(array.cast(pyarrow.large_binary()))
    return kind.byte_width if types.is_fixed_size_binary(kind) else 0


def items_of_rows(array: pyarrow.Array, within_list: bool = False) -> np.ndarray:
    """Values in the lists of each row of a column, at all depths together; those in no list do not count."""
    kind, types = array.type, pyarrow.types
    if isinstance(array, pyarrow.ExtensionArray):
        return items_of_rows(array.storage, within_list)
    own = np.full(len(array), int(within_list))
    if types.is_struct(kind):
        return sum((items_of_rows(field, within_list) for field in array.flatten()), own)
    views = types.is_list_view(kind) or types.is_large_list_view(kind)
    if not (views or types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return own
    until = np.concatenate([[0], items_of_rows(array.flatten(), True).cumsum()])  # of all rows one after the other
    lengths = pyarrow.compute.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = lengths.cumsum()
    return own + until[ends] - until[ends - lengths]


def load(table: pyarrow.Table) -> int:
    """Make rows of a table as the harness will, by `datasets` and what the file's schema tells it of the columns.

    Returns:
        bytes of the columns that `datasets` makes, where codes have become what they stand for.

    Raises:
        ValueError: it cannot, as the schema has types that are none, or that the columns cannot be turned into.
    """
    from datasets import Dataset, DatasetInfo, Features
    from datasets.table import table_cast

    try:
        features = Features.from_arrow_schema(table.schema)
        made = table_cast(table, features.arrow_schema)
        Dataset(made, info=DatasetInfo(features=features))[:]
        return made.nbytes
    except MemoryError:
        raise
    except Exception as error:  # of what it makes by a stranger's words
        raise ValueError(f"`datasets` does not load it ({type(error).__name__}: {one_line(error, 200)})") from error


def require_plain(said: bytes) -> None:
    """Check what a file tells `datasets` to make of its columns, by JSON in its schema.

    Raises:
        ValueError: images and the like, which are opened by addresses that the rows name, files of this machine among
            them; or names of classes that are not there, but in a file, or to be made by their number.
    """
    level = [parse_json(said, "its schema")]
    while level:
        for feature in level:
            kind = feature.get("_type") if isinstance(feature, dict) else None
            named = isinstance(feature, dict) and isinstance(feature.get("names"), list)
            if isinstance(kind, str) and kind not in PLAIN and not (kind == "ClassLabel" and named):
                raise ValueError(f"a column is of type {kind!r}, which is more than numbers and text")
            if kind == "ClassLabel" and feature.get("names_file") is not None:
                raise ValueError("the names of a column's classes are in a file")
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]


def resolve(repo: str, wanted: list[str], revision: str = CONVERTED) -> dict:
    """The commit of a data set's revision, and those of its files that are wanted."""
    return client.resolve(repo, revision, partial(parquet_files, wanted), "dataset")


def parquet_files(wanted: list[str], files: dict[str, dict], where: str) -> dict[str, dict]:
    """The entries of the wanted files, with their `name` on the hub.

    Where a task names no configuration, it is called `default`, or as the only one that there is.

    Raises:
        Unavailable: a file is not there, or too large, or the split has further ones; `where` names the revision.
    """
    configs, found = sorted({name.split("/")[0] for name in files if name.count("/") == 2}), {}
    for asked in wanted:
        config, split, file = asked.split("/")
        config = configs[0] if config == "default" and len(configs) == 1 else config
        name = f"{config}/{split}/{file}"
        if name not in files:
            raise client.Unavailable(f"{where} has no {name}; its configurations: {', '.join(configs) or 'none'}")
        if f"{config}/{split}/0001.parquet" in files:
            raise client.Unavailable(f"{where} has {config}/{split} in several files; only splits of one file are read")
        found[asked] = files[name] | {"name": name}
        require_small(found[asked], where)
    return found


def require_small(entry: dict, where: str) -> None:
    """Check that a file is no larger than what is read of it, before it is fetched.

    Raises:
        Unavailable: it is; `where` names the revision.
    """
    if (size := entry["bytes"]) > MOST_DECODED:
        raise client.Unavailable(
            f"{where}: {entry['name']} has {size} bytes, and {MOST_DECODED} at most are read; take its task out"
        )


if __name__ == "__main__":
    place, params = snakemake.wildcards, snakemake.params
    open_log(snakemake.log[0], f"fetch_dataset {place.dataset} {place.configuration} {place.part}")
    fetch_dataset(
        place.dataset.replace("--", "/", 1),
        f"{place.configuration}/{place.part}/0000.parquet",
        params.locked,
        Path(params.state),
        Path(snakemake.output.data),
        Path(snakemake.output.manifest),
    )
