"""Locks: what revisions on a hub were when they were resolved; files that a user can commit.

A published trajectory has one, `config/trajectories/locks/NAME.json`, and so has a data set of tasks or corpora,
`config/datasets/locks/OWNER--NAME.json`.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from scripts.lib.hub import answers
from scripts.lib.runtime import manifests

COMMIT = re.compile(answers.COMMIT)
CONVERTED = "refs/convert/parquet"  # the branch on which the hub keeps its conversion of a data set


def path_of(folder: Path | str, name: str) -> Path:
    """Where a lock lies, below the folder of trajectories or of data sets."""
    return Path(folder) / "locks" / f"{name}.json"


def read(folder: Path | str, name: str) -> dict:
    """A lock; an empty one if there is none.

    Returns:
        revisions: {revision: {repo, commit, files}}; of a trajectory also tokenizer: {repo, commit, files}. What is
        locked for a corpus has no files: it is read as a stream.

    Raises:
        ValueError: it is no lock as `write` makes them; names the file.
    """
    path = path_of(folder, name)
    if not path.is_file():
        return {"revisions": {}}
    try:
        return answers.read(path.read_bytes(), answers.LOCK)
    except ValueError as error:
        raise ValueError(f"{path} is no lock ({error}); mend it, or delete it and run `make resolve`") from error


def merge(lock: dict, revision: str, found: dict, needed: Iterable[str] = ()) -> str | None:
    """Put a resolved revision into a lock; what is there already, a commit or a file's hash, stays as it is.

    Args:
        needed: files that join a revision which is there already; other files of it would change what is read.

    Returns:
        What moved, or is another file under the same commit, for people; None if nothing did.
    """
    known = lock["revisions"].setdefault(revision, found)
    if known["commit"] == found["commit"]:
        others = sorted(name for name, entry in known["files"].items() if found["files"].get(name, entry) != entry)
        more = {name: found["files"][name] for name in needed if name in found["files"]}
        known["files"] = dict(sorted((more | known["files"]).items()))
        if not others:
            return None
        at = f"{found['repo']} at {known['commit'][:12]}"
        return f"{at}: the hub says another size or hash of {others[0]} than the lock, which is kept"
    return (
        f"{found['repo']}: `{revision}` moved from {known['commit'][:12]} to {found['commit'][:12]}; the lock is kept"
    )


def write(folder: Path | str, name: str, lock: dict) -> Path:
    """Write a lock, keys sorted, in one step."""
    path = path_of(folder, name)
    manifests.write(path, {**lock, "revisions": dict(sorted(lock["revisions"].items()))})
    return path


def holding(commit: str, folder: Path | str = "config") -> str:
    """The locks that have a commit, as text for messages; empty if there are none."""
    paths = sorted(Path(folder).glob("*/locks/*.json"))
    return ", ".join(str(path) for path in paths if commit in path.read_text(errors="replace"))


def of_dataset(folder: Path | str, name: str, file: str) -> dict | None:
    """What a lock has of one file of a data set: repo, commit, and in `files` its entry if there is one; or None.

    Raises:
        ValueError: as of `read`; or it has another repository, or another file under this one's name.
    """
    known = read(folder, name)["revisions"].get(CONVERTED)
    if known:
        held = known["files"].get(file, {}).get("name", "")
        same = file.split("/")[1:] == held.split("/")[1:] if file.startswith("default/") else file == held
        if known["repo"].replace("/", "--") != name or (file in known["files"] and not same):
            holds = f"{held or 'nothing'} of {known['repo']} as {file} of {name.replace('--', '/', 1)}"
            raise ValueError(f"{path_of(folder, name)} has {holds}; mend it, or delete it and run `make resolve`")
    return known and {**known, "files": {path: entry for path, entry in known["files"].items() if path == file}}


def is_published(corpus: dict) -> bool:
    """Whether a corpus, by its file's content, is read from a hub; a hub's data set may also be a folder."""
    return corpus["source"] == "hub" and not Path(corpus["dataset"]).exists()


def at_commit(corpus: dict) -> bool:
    """Whether a published corpus names the commit of its data set itself."""
    return bool(COMMIT.fullmatch(revision_of(corpus)))


def revision_of(corpus: dict) -> str:
    """Which revision of its data set a published corpus asks for."""
    return corpus.get("revision") or "main"


def name_of(corpus: dict) -> str:
    """Name of the lock of a published corpus's data set."""
    return corpus["dataset"].replace("/", "--")


def of_corpus(folder: Path | str, corpus: dict) -> dict | None:
    """What a lock has of the revision that a published corpus asks for; or None."""
    return read(folder, name_of(corpus))["revisions"].get(revision_of(corpus))


def pin(folder: Path | str, corpus: dict) -> dict:
    """A corpus with the commit of its data set as `revision` where a lock has it, keys sorted; else as it is."""
    if not is_published(corpus) or at_commit(corpus):
        return corpus
    known = of_corpus(folder, corpus)
    return dict(sorted((corpus | {"revision": known["commit"]}).items())) if known else corpus
