"""What a repository of a model hub holds at a revision, and fetching files of it, by huggingface_hub."""

import hashlib
from collections.abc import Iterable
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import WeakFileLock, validate_repo_id

from scripts.lib.hub import answers, locks
from scripts.lib.hub.patience import Unavailable, Wrong, opened, patiently
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import Progress
from scripts.lib.runtime.untrusted import LARGEST_JSON, inside

LARGEST_ANSWER = 20 * 10**6  # bytes, of what is not a file: some 100,000 files; in config/README.md
PARTIAL, NO_RANGE = 206, 416  # status of an answer that goes on in the middle, and of none that would begin there
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES += ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "chat_template.jinja")
CONFIG_FILES = ("config.json", "generation_config.json")
WHOLE = {"safetensors": "model.safetensors", "bin": "pytorch_model.bin"}  # where all weights are in one file
INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}
MOST_WEIGHTS = 2_000  # files of weights of a revision, as of a folder (`folders.MOST_FILES`): all stand in its lock


def describe_revision(repo: str, revision: str, kind: str = "model") -> dict:
    """A revision resolved: its commit and its files.

    Args:
        repo: `owner/name`.
        revision: branch, tag or commit.
        kind: `model` or `dataset`.

    Returns:
        commit: 40 hex digits. files: {path: {"bytes": int, and "sha256" of large files, or "blob", git's own hash}}.

    Raises:
        Unavailable: there is no such repository or revision, or it needs a token.
    """
    found = ask_revision(repo, revision, kind, answers.FILES_OF_REVISION, blobs=True)
    files = {}
    for entry in sorted(found["siblings"], key=lambda entry: entry["rfilename"]):
        content = {"sha256": entry["lfs"]["sha256"]} if entry.get("lfs") else {"blob": entry["blobId"]}
        files[entry["rfilename"]] = {"bytes": entry["size"]} | content
    return {"commit": found["sha"], "files": files}


def commit_of_dataset(repo: str, revision: str) -> str:
    """The commit that a revision of a data set is at, without a listing of its files, which may be a hundred thousand.

    Raises:
        Unavailable: as of `describe_revision`.
    """
    return ask_revision(repo, revision, "dataset", answers.COMMIT_OF_REVISION, expand="sha")["sha"]


def branches_and_tags(repo: str) -> list[str]:
    """The names of a model repository's branches and tags, sorted.

    Raises:
        Unavailable: as of `describe_revision`.
    """
    found = ask(repo, f"models/{repo}/refs", repo, answers.REFS)
    return sorted({ref["name"] for ref in [*found["branches"], *found["tags"]]})


def ask_revision(repo: str, revision: str, kind: str, schema: dict, **asked) -> dict:
    """What a hub says of a revision; of a commit, that it is this one."""
    path, what = f"{kind}s/{repo}/revision/{quote(revision, safe='')}", f"{repo} at revision {revision}"
    found = ask(repo, path, what, schema, **asked)
    if locks.COMMIT.fullmatch(revision) and found["sha"] != revision:
        raise Unavailable(f"{what}: the hub says that it is {found['sha']}; is HF_ENDPOINT right? else try again later")
    return found


def ask(repo: str, path: str, what: str, schema: dict, **asked) -> dict:
    """What a hub answers at a path of its interface: JSON that fits the schema.

    Raises:
        Unavailable: it does not answer, or something else; or the repository's name is none.
    """
    try:
        validate_repo_id(repo)
        content = patiently(lambda: listing(f"{constants.ENDPOINT}/api/{path}", asked), what)
        return answers.read(content, schema)
    except HFValidationError as error:
        raise Unavailable(f"{what}: a repository cannot be called so: {error}") from error
    except ValueError as error:
        raise Unavailable(
            f"{what}: the hub's answer is none that a hub gives ({error}); is HF_ENDPOINT right? else try again later"
        ) from error


def listing(url: str, asked: dict) -> bytes:
    """The content of an answer that is no file.

    Raises:
        ValueError: it is larger than any can be.
    """
    content = bytearray()
    with opened(url, asked) as response:
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > LARGEST_ANSWER:
                raise ValueError(f"it has more than {LARGEST_ANSWER} bytes")
    return bytes(content)


def model_files(files: dict[str, dict], where: str, code: Iterable[str] = ()) -> dict[str, dict]:
    """Those of a revision's files that a checkpoint needs: its config and its weights, as safetensors if there are any.

    Args:
        files: as `describe_revision` gives them.
        where: names the revision in messages.
        code: Python files that the checkpoint needs too.

    Raises:
        Unavailable: there is no config, or there are no weights or too many files of them, or code is missing.
    """
    if "config.json" not in files:
        raise Unavailable(f"{where} has no config.json, so it holds no model that transformers reads")
    safe = [name for name in files if "/" not in name and name.endswith(".safetensors")]
    pickled = [name for name in files if "/" not in name and name.endswith(".bin") and name.startswith("pytorch_model")]
    kind, weights = ("safetensors", safe) if safe else ("bin", pickled)
    weights = [WHOLE[kind]] if WHOLE[kind] in weights else weights
    if not weights:
        raise Unavailable(f"{where} has no weights (neither *.safetensors nor pytorch_model*.bin)")
    if len(weights) > MOST_WEIGHTS:
        raise Unavailable(f"{where} has weights in {len(weights)} files; {MOST_WEIGHTS} are read at most")
    if missing := sorted(set(code) - files.keys()):
        raise Unavailable(f"{where} has no {', '.join(missing)}, which `remote_code` of the trajectory pins")
    wanted = {*weights, *CONFIG_FILES, INDEX[kind], *code}
    found = {name: entry for name, entry in files.items() if name in wanted}
    require_small({name: entry for name, entry in found.items() if name not in weights}, where)
    return found


def tokenizer_files(files: dict[str, dict], where: str) -> dict[str, dict]:
    """Those of a revision's files that a tokenizer needs.

    Raises:
        Unavailable: there are none; `where` names the revision.
    """
    found = {name: entry for name, entry in files.items() if name in TOKENIZER_FILES}
    if not found:
        raise Unavailable(f"{where} has no tokenizer; name another repository in `tokenizer_repo`")
    found |= {name: files[name] for name in CONFIG_FILES if name in files}
    require_small(found, where)
    return found


def require_small(files: dict[str, dict], where: str) -> None:
    """Check that files beside weights are no larger than what is read of such files.

    Raises:
        Unavailable: one is; `where` names the revision.
    """
    for name, entry in files.items():
        if entry["bytes"] > LARGEST_JSON:
            raise Unavailable(f"{where}: {name} has {entry['bytes']} bytes, and no more than {LARGEST_JSON} are read")


def resolve(repo: str, revision: str, choose, kind: str = "model") -> dict:
    """A revision's commit and those of its files that `choose` takes."""
    found = describe_revision(repo, revision, kind)
    return {"repo": repo, "commit": found["commit"], "files": choose(found["files"], f"{repo} at {revision}")}


def at(repo: str, commit: str) -> str:
    """A repository at a commit, for messages."""
    return f"{repo} at {commit[:12]}"


def origin(resolved: dict) -> str:
    """A resolved revision, for messages about its files; with the locks that have it, which may have been edited."""
    held = locks.holding(resolved["commit"])
    mend = f" (locked in {held}: if that was edited, delete its entry there and run `make resolve`)"
    return at(resolved["repo"], resolved["commit"]) + (mend if held else "")


def fetch_files(resolved: dict, folder: Path) -> None:
    """Fetch the files of a resolved revision into a folder, showing how far it is in megabytes."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(sum(entry["bytes"] for entry in resolved["files"].values()) // 10**6 + 1, "MB")
    done = 0
    for name, entry in resolved["files"].items():
        fetch_file(resolved["repo"], resolved["commit"], name, entry, folder)
        done += entry["bytes"]
        progress.update(done // 10**6)


def fetch_file(repo: str, commit: str, name: str, entry: dict, folder: Path, kind: str = "model") -> Path:
    """A file of a commit, in a folder; a part that an earlier job left is gone on with, a wrong one is fetched again.

    Not by huggingface_hub's own download, which neither checks hashes nor goes on with another process's part.

    Args:
        entry: its size and hash, as `describe_revision` or a lock gives them.

    Raises:
        Unavailable: it is not there, comes too slowly, or comes with another size or hash twice; names the lock.
        OSError: the disk is full, or fails; what was fetched stays.
    """
    held = locks.holding(commit)
    what = f"{at(repo, commit)}: {name}{f', locked in {held}' if held else ''}"
    try:
        path = inside(folder, name)
    except ValueError as error:
        raise Unavailable(f"{at(repo, commit)}: {error}: not fetched; if a lock names it, delete that") from error
    part = path.with_name(f"{path.name}.part")
    url = hf_hub_url(repo, name, revision=commit, repo_type=kind)

    def take() -> Path:
        download(url, part, entry["bytes"])
        if is_content(part, entry):
            return part.rename(path)
        part.unlink()
        raise Wrong(
            "the lock says, so it disagrees with the hub: delete its entry there and run `make resolve`"
            if held
            else "the hub itself says; try again later"
        )

    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file() and is_content(path, entry):  # it may be of another commit
            return path
        return patiently(take, what)


def download(url: str, part: Path, size: int) -> None:
    """Download what is missing of a file of so many bytes; all of it where the hub does not go on in the middle."""
    if part.is_file() and part.stat().st_size > size:
        part.unlink()
    with open(part, "ab") as file:
        start = file.tell()
        if size and start == size:
            return
        try:
            take_rest(url, file, size)
        except HfHubHTTPError as error:
            if not start or error.response.status_code != NO_RANGE:
                raise
            file.truncate(0)
            take_rest(url, file, size)


def take_rest(url: str, file: BinaryIO, size: int) -> None:
    """Append to a file what it lacks of so many bytes; one that the hub begins anew begins anew."""
    start = file.seek(0, SEEK_END)
    with opened(url, headers={"Range": f"bytes={start}-"} if start else {}) as response:
        if start and response.status_code != PARTIAL:
            file.truncate(0)
            start = 0
        for chunk in response.iter_raw():
            file.write(chunk)
            start += len(chunk)
            if start > size:  # it is another file, and may have no end
                break


def is_content(path: Path, entry: dict) -> bool:
    """Whether a file has the size of an entry, and its SHA-256 or the hash that git has for it."""
    size = path.stat().st_size
    if size != entry["bytes"]:
        return False
    if "sha256" in entry:
        return manifests.sha256(path) == entry["sha256"]
    start = b"blob %d\0" % size
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(start)).hexdigest() == entry["blob"]
