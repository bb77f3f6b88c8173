"""fetch_dataset: one split of a data set that tasks read, in the hub's own conversion to parquet.

The hub converts data sets by itself, those too whose scripts `datasets` no longer runs, on a branch of its own, to
`<config>/<split>/0000.parquet`.
"""

import shutil
from functools import partial
from pathlib import Path

import polars as pl

from scripts.lib.hub import client
from scripts.lib.hub.locks import CONVERTED
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import open_log


def fetch_dataset(repo: str, name: str, locked: dict | None, state: Path, data: Path, manifest: Path) -> None:
    """Fetch a file of a data set and write, beside it, where it comes from.

    Args:
        repo: `owner/name`.
        name: `<config>/<split>/0000.parquet`, with `default` where a task names no configuration.
        locked: commit, and the file's entry; without the entry the commit is asked for it, without a lock the branch.
        state: folder that outlives this job if it fails.
        data, manifest: where to write.

    Raises:
        Unavailable: the hub does not give it, or the split is not one file, or no parquet.
    """
    resolved = locked
    if not locked or not locked["files"]:
        resolved = resolve(repo, [name], locked["commit"] if locked else CONVERTED)
    entry = resolved["files"][name]
    fetched = client.fetch_file(repo, resolved["commit"], entry["name"], entry, state, "dataset")
    content = {"bytes": fetched.stat().st_size, "sha256": manifests.sha256(fetched)}
    try:
        content["rows"] = pl.scan_parquet(fetched).select(pl.len()).collect().item()
    except pl.exceptions.PolarsError as error:
        where = f"{repo} at {resolved['commit'][:12]}: {entry['name']}"
        raise client.Unavailable(f"{where} is no parquet file; take its task out, or tell its owners") from error
    data.unlink(missing_ok=True)
    manifests.link_file(fetched, data)
    origin = {"repo": repo, "commit": resolved["commit"], "file": entry["name"]}
    manifests.write(manifest, {"kind": "dataset", "status": "ok", **origin, **content})
    shutil.rmtree(state)


def resolve(repo: str, wanted: list[str], revision: str = CONVERTED) -> dict:
    """The commit of a data set's revision, and those of its files that are wanted."""
    return client.resolve(repo, revision, partial(parquet_files, wanted), "dataset")


def parquet_files(wanted: list[str], files: dict[str, dict], where: str) -> dict[str, dict]:
    """The entries of the wanted files, with their `name` on the hub.

    Where a task names no configuration, it is called `default`, or as the only one that there is.

    Raises:
        Unavailable: a file is not there, or the split has further ones; `where` names the revision.
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
    return found


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
