"""make resolve STUDY=X: what a study takes from a hub, checkpoints, tasks' data and corpora, becomes commits: locks."""

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from scripts import fetch_dataset
from scripts.lib import hub, jobs, locks
from scripts.lib.config import ConfigError
from scripts.lib.logs import Progress
from scripts.lib.plan import Plan, load_plan

FOLDER = Path("config")


def resolve(plan: Plan, folder: Path) -> list[str]:
    """Write the locks of a study; what is locked already is asked for, but never changed.

    Args:
        plan: the study.
        folder: that of trajectories/ and datasets/, whose locks/ are written.

    Returns:
        What moved on the hub since it was locked, and what the hub does not give, a line each. Where the hub fails
        altogether, the last line says so, and the locks of what was resolved before are written.
    """
    steps = {name: [] for name in plan.by_source("hub")}
    for name, step in jobs.checkpoints_needed(plan):
        if name in steps:
            steps[name].append(step)
    data = {}
    for path in jobs.datasets_needed(plan):
        _, dataset, name = path.as_posix().split("/", 2)
        data.setdefault(dataset, []).append(name)
    runs = [resolve_trajectory(plan, name, asked, folder / "trajectories") for name, asked in steps.items() if asked]
    runs += [resolve_dataset(dataset, names, folder / "datasets") for dataset, names in data.items()]
    corpora = published_corpora(plan)
    runs += [resolve_corpus(corpus, folder / "datasets") for corpus in corpora]
    progress, notes = Progress(sum(map(len, steps.values())) + len(data) + len(corpora), "revisions"), []
    try:
        for done, note in enumerate(itertools.chain(*runs), start=1):
            notes += [note] if note else []
            progress.update(done)
    except hub.Unreachable as error:
        notes.append(str(error))
    return notes


def resolve_trajectory(plan: Plan, name: str, steps: list[int], folder: Path) -> Iterator[str | None]:
    """Lock the revisions of a trajectory's steps, and its tokenizer; after each comes what is to be told of it."""
    lock = locks.read(folder, name)
    for step in steps:
        wanted = plan.published(name, step)
        choose = partial(hub.model_files, code=wanted["remote_code"])
        with telling() as notes:
            found = hub.resolve(wanted["repo"], wanted["revision"], choose)
            notes.append(locks.merge(lock, wanted["name"], found))
            if not lock.get("tokenizer"):
                repo = plan.trajectories[name]["tokenizer_repo"]
                lock["tokenizer"] = hub.resolve(repo, "main", hub.tokenizer_files)
        locks.write(folder, name, lock)
        yield notes[-1]


def resolve_dataset(dataset: str, names: list[str], folder: Path) -> Iterator[str | None]:
    """Lock the files of a data set; if its branch has moved, further files come from the locked commit."""
    lock, repo = locks.read(folder, dataset), dataset.replace("--", "/", 1)
    with telling() as notes:
        notes.append(locks.merge(lock, locks.CONVERTED, fetch_dataset.resolve(repo, names)))
        known = lock["revisions"][locks.CONVERTED]
        if missing := [name for name in names if name not in known["files"]]:
            locks.merge(lock, locks.CONVERTED, fetch_dataset.resolve(repo, missing, known["commit"]))
        locks.write(folder, dataset, lock)
    yield notes[-1]


def published_corpora(plan: Plan) -> list[dict]:
    """The entries of the config's section `corpus` that the study reads from a hub."""
    tokens = jobs.tokens_needed(plan)
    needed = jobs.corpora_needed(plan, tokens, jobs.tokenizers_needed(plan, tokens))
    return [corpus for corpus in map(plan.config["corpus"].get, needed) if locks.is_published(corpus)]


def resolve_corpus(corpus: dict, folder: Path) -> Iterator[str | None]:
    """Lock the commit of a corpus's data set."""
    repo, revision = corpus["dataset"], locks.revision_of(corpus)
    name = repo.replace("/", "--")
    lock = locks.read(folder, name)
    with telling() as notes:
        found = {"repo": repo, "commit": hub.commit_of_dataset(repo, revision), "files": {}}
        notes.append(locks.merge(lock, revision, found))
        locks.write(folder, name, lock)
    yield notes[-1]


@contextmanager
def telling() -> Iterator[list[str | None]]:
    """A list of notes, the last of which is what the hub says where it does not give something; then others go on."""
    notes: list[str | None] = [None]
    try:
        yield notes
    except hub.Unreachable:
        raise
    except hub.Unavailable as error:
        notes.append(str(error))


def main() -> None:
    """Resolve a study's revisions; the exit status is 1 if one has moved or is not given."""
    try:
        notes = resolve(load_plan(*sys.argv[1:]), FOLDER)
    except ConfigError as error:
        sys.exit(f"resolve: {error}")
    if notes:
        sys.exit("\n".join(notes))
    print(f"locked below {FOLDER}/trajectories/locks and {FOLDER}/datasets/locks; commit the files to share them")


if __name__ == "__main__":
    main()
