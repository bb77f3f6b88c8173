"""What a repository of a model hub holds at a revision, and fetching files of it, by huggingface_hub."""

import hashlib
import logging
import random
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
)

from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import Progress
from scripts.lib.runtime.untrusted import inside

ATTEMPTS = 6  # of a call or a file; with the waits below two to five minutes
SHORTEST_WAIT, LONGEST_WAIT = 10, 120  # seconds
LONGEST_ASKED = 900  # seconds that a hub may ask to wait for with a listing; in downloads, huggingface_hub waits itself
TIMEOUT = 60  # seconds, of a listing, or without a byte of a file
PARTIAL = 206  # status of an answer that goes on in the middle
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES += ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "chat_template.jinja")
CONFIG_FILES = ("config.json", "generation_config.json")
INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


class Unavailable(Exception):
    """The hub does not give what is asked for; the message says what to do."""


class Unreachable(Unavailable):
    """The hub does not answer, or only with errors; anything else that it is asked will fail too."""


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
    api, what = HfApi(), f"{repo} at revision {revision}"
    asked = {"revision": revision, "repo_type": kind, "files_metadata": True, "timeout": TIMEOUT}
    info = patiently(lambda: api.repo_info(repo, **asked), what)
    files = {}
    for entry in sorted(info.siblings, key=lambda entry: entry.rfilename):
        content = {"sha256": entry.lfs.sha256} if entry.lfs else {"blob": entry.blob_id}
        files[entry.rfilename] = {"bytes": entry.size} | content
    return {"commit": info.sha, "files": files}


def commit_of_dataset(repo: str, revision: str) -> str:
    """The commit that a revision of a data set is at, without a listing of its files, which may be a hundred thousand.

    Raises:
        Unavailable: as of `describe_revision`.
    """
    asked = {"revision": revision, "expand": ["sha"], "timeout": TIMEOUT}
    return patiently(lambda: HfApi().dataset_info(repo, **asked), f"{repo} at revision {revision}").sha


def model_files(files: dict[str, dict], where: str, code: Iterable[str] = ()) -> dict[str, dict]:
    """Those of a revision's files that a checkpoint needs: its config and its weights, as safetensors if there are any.

    Args:
        files: as `describe_revision` gives them.
        where: names the revision in messages.
        code: Python files that the checkpoint needs too.

    Raises:
        Unavailable: there is no config, or there are no weights, or code is missing.
    """
    if "config.json" not in files:
        raise Unavailable(f"{where} has no config.json, so it holds no model that transformers reads")
    safe = [name for name in files if "/" not in name and name.endswith(".safetensors")]
    pickled = [name for name in files if "/" not in name and name.endswith(".bin") and name.startswith("pytorch_model")]
    kind, weights = ("safetensors", safe) if safe else ("bin", pickled)
    if not weights:
        raise Unavailable(f"{where} has no weights (neither *.safetensors nor pytorch_model*.bin)")
    if missing := sorted(set(code) - files.keys()):
        raise Unavailable(f"{where} has no {', '.join(missing)}, which `remote_code` of the trajectory pins")
    wanted = {*weights, *CONFIG_FILES, INDEX[kind], *code}
    return {name: entry for name, entry in files.items() if name in wanted}


def tokenizer_files(files: dict[str, dict], where: str) -> dict[str, dict]:
    """Those of a revision's files that a tokenizer needs.

    Raises:
        Unavailable: there are none; `where` names the revision.
    """
    found = {name: entry for name, entry in files.items() if name in TOKENIZER_FILES}
    if not found:
        raise Unavailable(f"{where} has no tokenizer; name another repository in `tokenizer_repo`")
    return found | {name: files[name] for name in CONFIG_FILES if name in files}


def resolve(repo: str, revision: str, choose, kind: str = "model") -> dict:
    """A revision's commit and those of its files that `choose` takes."""
    found = describe_revision(repo, revision, kind)
    return {"repo": repo, "commit": found["commit"], "files": choose(found["files"], f"{repo} at {revision}")}


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
        entry: its size and hash, as `describe_revision` gives them.

    Raises:
        Unavailable: it is not there, or comes with another hash twice.
        OSError: the disk is full, or fails; what was fetched stays.
    """
    what = f"{repo} at {commit[:12]}: {name}"
    try:
        path = inside(folder, name)
    except ValueError as error:
        raise Unavailable(f"{repo} at {commit[:12]}: {error}: not fetched; if a lock names it, delete that") from error
    part = path.with_name(f"{path.name}.part")
    url = hf_hub_url(repo, name, revision=commit, repo_type=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path.with_name(f".{path.name}.lock")):
        if path.is_file() and has_hash(path, entry):  # it may be of another commit
            return path
        for attempt in ("first", "second"):
            patiently(lambda: download(url, part, entry["bytes"]), what)
            if has_hash(part, entry):
                part.rename(path)
                return path
            part.unlink()
            logging.getLogger("trajquant").warning("%s: the %s time it came with another hash", what, attempt)
    raise Unavailable(f"{what} came twice with another hash than the hub itself says; try again later")


def download(url: str, part: Path, size: int) -> None:
    """Download what is missing of a file of so many bytes; all of it where the hub does not go on in the middle."""
    if part.is_file() and part.stat().st_size > size:
        part.unlink()
    with open(part, "ab") as file:
        start = file.tell()
        if size and start == size:
            return
        headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=TIMEOUT) as response:
            hf_raise_for_status(response)
            if start and response.status_code != PARTIAL:
                file.truncate(0)
            for chunk in response.iter_raw():
                file.write(chunk)


def has_hash(path: Path, entry: dict) -> bool:
    """Whether a file's content is that of an entry: its SHA-256, or the hash that git has for it."""
    if "sha256" in entry:
        return manifests.sha256(path) == entry["sha256"]
    start = b"blob %d\0" % path.stat().st_size
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha1(start)).hexdigest() == entry["blob"]


def patiently(call, what: str):
    """The result of a call to the hub, tried again where the hub is busy or the network fails.

    Waits double from `SHORTEST_WAIT` to `LONGEST_WAIT`, with a random share, where the hub does not say how long.

    Raises:
        Unavailable: the hub says that it will not give this, or all attempts failed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except (RevisionNotFoundError, EntryNotFoundError) as error:
            raise Unavailable(f"{what}: the hub has no such revision or file") from error
        except GatedRepoError as error:
            raise Unavailable(f"{what}: access is granted by its owners; ask there, then set HF_TOKEN") from error
        except RepositoryNotFoundError as error:
            raise Unavailable(f"{what}: there is no such repository, or it is private: set HF_TOKEN") from error
        except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if status in (401, 403):
                raise Unavailable(f"{what}: the hub refuses ({status}); set HF_TOKEN to a valid token") from error
            if is_of_this_machine(error):
                raise
            if status and status < 500 and status != 429:
                raise Unavailable(f"{what}: the hub answers {status}; are its names right, and HF_ENDPOINT?") from error
            if attempt == ATTEMPTS:
                raise Unreachable(f"{what}: the hub failed {ATTEMPTS} times, last: {error}") from error
            wait = wait_before(attempt, error)
            if wait > LONGEST_ASKED:
                raise Unavailable(f"{what}: the hub asks to wait for {wait:.0f} s; run again then") from error
            logging.getLogger("trajquant").warning("%s: %s; again in %.0f s", what, type(error).__name__, wait)
            time.sleep(wait)


def is_of_this_machine(error: Exception) -> bool:
    """Whether an error is of the disk, not of the network: those of huggingface_hub have no number."""
    return (
        isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.errno is not None
    )


def wait_before(attempt: int, error: Exception) -> float:
    """Seconds to wait after a failed attempt, the first being 1."""
    headers = error.response.headers if isinstance(error, HfHubHTTPError) else {}
    limit, asked = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    if limit and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0
    if asked.isdigit():
        return float(asked)
    return min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
