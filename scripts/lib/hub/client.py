"""What a repository of a model hub holds at a revision, and fetching files of it, by huggingface_hub."""

import hashlib
import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import httpx
from huggingface_hub import constants, hf_hub_url, set_client_factory
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
    validate_repo_id,
)
from huggingface_hub.utils._http import default_client_factory

from scripts.lib.hub import answers, locks
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import Progress
from scripts.lib.runtime.untrusted import inside, one_line

# These limits are in config/README.md.
ATTEMPTS = 6  # of an answer or a file; with the waits below two to five minutes
SHORTEST_WAIT, LONGEST_WAIT = 10, 120  # seconds, where a hub does not ask for another time
LONGEST_WAITED = 900  # seconds between the attempts of an answer or a file, all told
TIMEOUT = 60  # seconds without a byte
FIRST_LINES = 120  # seconds until an answer's content begins
SLOWEST, WINDOW = 10_000, 120  # bytes a second, over so many seconds
LARGEST_ANSWER = 10**8  # bytes, of what is not a file
LONGEST_HEADER = 300  # letters, of those of an error
OWN = "patiently"  # marks requests whose waits are bounded there
PARTIAL = 206  # status of an answer that goes on in the middle
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
TOKENIZER_FILES += ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "chat_template.jinja")
CONFIG_FILES = ("config.json", "generation_config.json")
INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}


class Unavailable(Exception):
    """The hub does not give what is asked for; the message, a line, says what to do."""

    def __init__(self, message: str):
        super().__init__(one_line(message))


class Unreachable(Unavailable):
    """The hub does not answer, or only with errors; anything else that it is asked may fail too."""


class Wrong(Exception):
    """The hub gave another file than it should."""


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
    """What a hub says of a revision."""
    path = f"{kind}s/{repo}/revision/{quote(revision, safe='')}"
    return ask(repo, path, f"{repo} at revision {revision}", schema, **asked)


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
        entry: its size and hash, as `describe_revision` or a lock gives them.

    Raises:
        Unavailable: it is not there, comes too slowly, or comes with another size or hash twice; names the lock.
        OSError: the disk is full, or fails; what was fetched stays.
    """
    held = locks.holding(commit)
    what = f"{repo} at {commit[:12]}: {name}{f', locked in {held}' if held else ''}"
    try:
        path = inside(folder, name)
    except ValueError as error:
        raise Unavailable(f"{repo} at {commit[:12]}: {error}: not fetched; if a lock names it, delete that") from error
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
        with opened(url, headers={"Range": f"bytes={start}-"} if start else {}) as response:
            if start and response.status_code != PARTIAL:
                file.truncate(0)
                start = 0
            for chunk in response.iter_raw():
                file.write(chunk)
                start += len(chunk)
                if start > size:  # it is another file, and may have no end
                    break


@contextmanager
def opened(url: str, asked: dict | None = None, headers: dict | None = None) -> Iterator[httpx.Response]:
    """The answer to a GET, not an error, its content still to be read.

    A hub that sends what comes before the content at a byte a minute keeps to every timeout of httpx.
    """
    session, headers = get_session(), build_hf_headers() | {"Accept-Encoding": "identity"} | (headers or {})
    request = session.build_request("GET", url, params=asked, headers=headers, timeout=TIMEOUT, extensions={OWN: True})
    response = within(FIRST_LINES, lambda: session.send(request, stream=True, follow_redirects=True))
    try:
        if response.is_error:  # without its content, which may have no end, too
            told = [(name, value) for name, value in response.headers.raw if len(value) < LONGEST_HEADER]
            told = [(name, value) for name, value in told if not name.lower().startswith(b"content-")]
            hf_raise_for_status(httpx.Response(response.status_code, headers=told, request=response.request))
        yield response
    finally:
        response.close()


def within(seconds: float, call: Callable):
    """The result of a call that may take so long.

    Raises:
        TimeoutError: it takes longer; it is left to itself then, and ends with this process at the latest.
    """
    future = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError as error:
        if future.done():
            raise
        raise TimeoutError(f"no answer within {seconds} s") from error


class FastEnough(httpx.SyncByteStream):
    """An answer's content, as fast as is waited for: in any window of waiting, however long the reader takes."""

    def __init__(self, stream: httpx.SyncByteStream):
        self.stream = stream

    def __iter__(self) -> Iterator[bytes]:
        """The chunks; a TimeoutError where they come more slowly."""
        chunks, waited, received = iter(self.stream), 0.0, 0
        while True:
            since = time.monotonic()
            chunk = next(chunks, None)
            waited += time.monotonic() - since
            if chunk is None:
                return
            received += len(chunk)
            if waited >= WINDOW:
                if received < SLOWEST * waited:
                    raise TimeoutError(f"it sent {received / waited:.0f} bytes a second, and {SLOWEST} are waited for")
                waited, received = 0.0, 0
            yield chunk

    def close(self) -> None:
        self.stream.close()


def bound(response: httpx.Response) -> None:
    """Bound how slowly an answer's content may come, and how long the library itself would sleep before it asks again.

    Raises:
        Unavailable: the hub asks for longer.
    """
    response.stream = FastEnough(response.stream)
    wait = asked_wait(response.headers)
    if response.is_error and not response.request.extensions.get(OWN) and wait and wait > LONGEST_WAITED:
        raise Unavailable(f"{response.request.url}: the hub asks to wait for {wait:.0f} s; run again then")


def bounded_client() -> httpx.Client:
    """The client of huggingface_hub, by which `datasets` reads too, within the limits of this file."""
    found = default_client_factory()
    found.timeout = TIMEOUT
    found.event_hooks["response"].append(bound)
    return found


set_client_factory(bounded_client)


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


def patiently(call, what: str):
    """The result of a call to the hub, tried again where the hub is busy or the network fails; a wrong file, once.

    Waits double from `SHORTEST_WAIT` to `LONGEST_WAIT`, with a random share, where the hub does not say how long.

    Raises:
        Unavailable: the hub says that it will not give this, asks to wait too long, or all attempts failed.
    """
    waited, wrong = 0.0, False
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Wrong as error:
            if wrong:
                raise Unavailable(f"{what} came twice with another hash or size than {error}") from error
            wrong = True
            logging.getLogger("trajquant").warning("%s came with another hash or size; once more", what)
            continue
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
            if waited + wait > LONGEST_WAITED:
                raise Unavailable(f"{what}: the hub asks to wait for {wait:.0f} s; run again then") from error
            until = time.strftime("%H:%M:%S", time.localtime(time.time() + wait))
            reason = one_line(f"{what}: {f'status {status}' if status else type(error).__name__}")
            logging.getLogger("trajquant").warning("%s: waiting for the hub until %s", reason, until)
            time.sleep(wait)
            waited += wait


def is_of_this_machine(error: Exception) -> bool:
    """Whether an error is of the disk, not of the network: those of huggingface_hub have no number."""
    return (
        isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.errno is not None
    )


def wait_before(attempt: int, error: Exception) -> float:
    """Seconds to wait after a failed attempt, the first being 1."""
    asked = asked_wait(error.response.headers) if isinstance(error, HfHubHTTPError) else None
    return min(LONGEST_WAIT, SHORTEST_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0) if asked is None else asked


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a hub asks to wait for, if it does."""
    asked = headers.get("Retry-After", "")
    try:
        limit = parse_ratelimit_headers(headers)
        wait = limit.reset_in_seconds + 1.0 if limit and limit.remaining == 0 else float(int(asked.encode("ascii")))
        return max(0.0, wait)
    except (ValueError, OverflowError):  # none is asked for, or nonsense
        return None
