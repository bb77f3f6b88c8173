"""fetch_tokenizer: the tokenizer of published checkpoints, from a model hub."""

import json
import shutil
from pathlib import Path

from scripts.lib.hub import client
from scripts.lib.runtime.confined import confined
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.untrusted import read_json
from scripts.tokenize import encode_batch, largest_id
from scripts.tokenizer import take, tokenizer

MEMORY, SECONDS = 4 * 2**30, 300  # bytes, and time on a core, to load a tokenizer and encode `SAMPLE`; in config/README
RUN = 2000  # letters
SAMPLE = ["", "a b " * (RUN // 4), "ab" * (RUN // 2), *(chr(code) * RUN for code in range(32, 127)), "\n" * RUN]
SAMPLE += ["def mean(of):\n    return sum(of) / len(of)  # 1.5e-3\n", "Ünïcode, 漢字, кириллица, عربي and 🙂. " * 50]
MOST_TOKENS = 16  # a byte of a document, and as many at its ends


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
    for path in state.glob("*") if state.is_dir() else ():
        if path.name not in resolved["files"] and path.suffix != ".part":  # of another commit, which a killed job began
            path.unlink()
    client.fetch_files(resolved, state)
    try:
        check(state)
        try_out(state, name)
    except ValueError as error:
        where, why = client.at(repo, resolved["commit"]), str(error).removeprefix(f"tokenizer {name}: ")
        raise ValueError(f"tokenizer {name}: {where}: {why}; name another one in `tokenizer_repo`") from error
    definition = {"source": "model", "path": str(state), "repo": repo, "commit": resolved["commit"]}
    manifest = tokenizer(definition, name, None, folder, manifest_path)
    shutil.rmtree(state)
    return manifest


def check(folder: Path) -> None:
    """Check the JSON of a tokenizer, and take out of its settings what transformers would open as a file anywhere.

    Raises:
        ValueError: a file is no JSON object, or larger or deeper than any tokenizer's.
    """
    contents = {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}
    for name, is_kept in (("tokenizer_config.json", opens_nothing), ("special_tokens_map.json", is_of_tokens)):
        settings = contents.get(name, {})
        kept = {key: value for key, value in settings.items() if is_kept(key)}
        if kept != settings:
            (folder / name).write_text(json.dumps(kept, ensure_ascii=False))


def opens_nothing(key: str) -> bool:
    """Whether transformers opens no file by this key of a tokenizer's settings."""
    return not key.endswith(("_file", "_files")) and key not in ("vocab", "merges", "init_inputs")


def is_of_tokens(key: str) -> bool:
    """Whether a key of special_tokens_map.json, each of which transformers takes for a setting, is of tokens."""
    return key.endswith(("_token", "_tokens"))


def try_out(folder: Path, name: str) -> None:
    """Load a tokenizer and encode a page with it, in a process of its own.

    Raises:
        ValueError: that fails, takes more than `MEMORY` or `SECONDS`, or gives more than `MOST_TOKENS`.
    """
    import transformers  # noqa: F401 - once, and not in each child

    try:
        confined(lambda: encode_sample(str(folder), name), MEMORY, SECONDS)
    except ValueError as error:
        files = ", ".join(sorted(path.name for path in folder.iterdir() if path.name in client.TOKENIZER_FILES))
        raise ValueError(f"{error} (to load {files} and to encode a page of text)") from error


def encode_sample(folder: str, name: str) -> None:
    """Load a tokenizer and encode `SAMPLE`; a ValueError where a document has too many tokens, or ids that are none."""
    taken = take(folder, name)
    largest = largest_id(taken)
    for text, ids in zip(SAMPLE, encode_batch(taken, SAMPLE), strict=True):
        if max(ids, default=0) > largest:
            raise ValueError(f"it makes id {max(ids)} of a text, and the largest of its vocabulary is {largest}")
        if len(ids) > MOST_TOKENS * (len(text.encode()) + 1):
            raise ValueError(f"it makes {len(ids)} tokens of a text of {len(text.encode())} bytes")


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
