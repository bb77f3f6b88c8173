"""fetch_tokenizer: the tokenizer of published checkpoints, from a model hub."""

import shutil
from pathlib import Path

from scripts.lib.hub import client
from scripts.lib.runtime.logs import open_log
from scripts.tokenizer import tokenizer


def fetch_tokenizer(repo: str, locked: dict | None, state: Path, name: str, folder: str, manifest_path: str) -> dict:
    """Fetch a repository's tokenizer and write it, with its manifest, as a tokenizer of the workflow.

    Args:
        repo: `owner/name`.
        locked: its commit and files; if None, those of its main branch now.
        state: folder that outlives this job if it fails.
        name: the tokenizer's name.
        folder, manifest_path: where to write.

    Returns:
        The manifest.

    Raises:
        Unavailable: the hub does not give it.
        ValueError: what it gives is no tokenizer, or one without an end-of-text token, or one that takes too much.
    """
    resolved = locked or client.resolve(repo, "main", client.tokenizer_files)
    where = client.origin(resolved)
    resolved = resolved | {"files": client.tokenizer_files(resolved["files"], where)}  # a lock may list anything
    for path in state.glob("*") if state.is_dir() else ():
        if path.name not in resolved["files"] and path.suffix != ".part":  # of another commit, which a killed job began
            path.unlink()
    client.fetch_files(resolved, state)
    definition = {"source": "model", "path": str(state), "repo": repo, "commit": resolved["commit"]}
    try:
        manifest = tokenizer(definition, name, None, folder, manifest_path)
    except ValueError as error:
        why = str(error).removeprefix(f"tokenizer {name}: ")
        raise ValueError(f"tokenizer {name}: {where}: {why}; name another one in `tokenizer_repo`") from error
    shutil.rmtree(state)
    return manifest


if __name__ == "__main__":
    open_log(snakemake.log[0], f"fetch_tokenizer {snakemake.wildcards.tokenizer}")
    fetch_tokenizer(
        snakemake.params.definition["repo"],
        snakemake.params.locked,
        Path(snakemake.params.state),
        snakemake.wildcards.tokenizer,
        snakemake.output.tokenizer,
        snakemake.output.manifest,
    )
