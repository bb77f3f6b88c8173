"""make resolve STUDY=X: what a study takes from a hub, checkpoints, tasks' data and corpora, becomes commits: locks."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from scripts import fetch_dataset
from scripts.lib.hub import client, locks, patience
from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import Progress
from scripts.lib.study import needs
from scripts.lib.study.plan import Plan, load_plan

FOLDER = Path("config")


def resolve(plan: Plan, folder: Path) -> list[str]:
    """Write the locks of a study; what is locked already is asked for, but never changed.

    Args:
        plan: the study.
        folder: that of trajectories/ and datasets/, whose locks/ are written.

    Returns:
        What moved on the hub since it was locked, and what the hub does not give, a line each. The other repositories
        are asked for all the same, unless the hub fails altogether for two of them in a row.
    """
    here = made_without_lock(plan, folder)
    if here:
        print(
            f"{len(here)} get no lock, for they, or another part of their data set, were fetched without one and would "
            f"be made again with all that follows; manifests name their commits: {', '.join(sorted(here)[:3])} ..."
        )
    steps, data = {}, {}
    for name, step in needs.published_needed(plan):
        if f"checkpoints/{name}/step-{step}" not in here:
            steps.setdefault(name, []).append(step)
    for path in needs.datasets_needed(plan):
        if path.parent.as_posix() not in here:
            _, dataset, name = path.as_posix().split("/", 2)
            data.setdefault(dataset, []).append(name)
    corpora = [corpus for name, corpus in published_corpora(plan).items() if f"corpora/{name}" not in here]
    runs = [resolve_trajectory(plan, name, asked, folder / "trajectories", here) for name, asked in steps.items()]
    runs += [resolve_dataset(dataset, names, folder / "datasets") for dataset, names in data.items()]
    runs += [resolve_corpus(corpus, folder / "datasets") for corpus in corpora]
    progress = Progress(sum(map(len, steps.values())) + len(data) + len(corpora), "revisions")
    notes, done, silent = [], 0, False
    for left, run in zip(reversed(range(len(runs))), runs, strict=True):
        try:
            for note in run:
                done += 1
                notes += [note] if note else []
                progress.update(done)
            silent = False
        except patience.Unreachable as error:
            notes.append(str(error))
            if silent and left:
                notes.append(f"two repositories in a row: {left} more are not asked for")
                break
            silent = True
    return notes


def made_without_lock(plan: Plan, folder: Path) -> set[str]:
    """What of a study gets no lock, by its place below the resources folder: checkpoints/NAME/step-N and the like.

    That is what was fetched without one; and, because all of a data set shares a lock, whatever comes from a data set
    from which something was fetched without one, by any study.
    """
    root = Path(plan.config["folders"]["resources"])
    found = (checkpoints_without_lock, data_without_lock, corpora_without_lock)
    return {place for places in found for place in places(plan, folder, root)}


def checkpoints_without_lock(plan: Plan, folder: Path, root: Path) -> Iterator[str]:
    """Checkpoints and tokenizers that are in the resources folder `root`, and in no lock."""
    points, locked = needs.published_needed(plan), {}
    for name, step in points:
        locked[f"checkpoints/{name}/step-{step}"] = plan.trajectories[name].published(step)["locked"]
    for name in {name for name, _ in points}:
        tokenizer, repo = plan.trajectories[name].tokenizer, plan.trajectories[name].tokenizer_repo
        shared = plan.locked_tokenizer(tokenizer) or locked_elsewhere(folder / "trajectories", repo)
        locked[f"tokenizers/{tokenizer}"] = shared
    return (place for place, lock in locked.items() if not lock and (root / place / "manifest.json").exists())


def data_without_lock(plan: Plan, folder: Path, root: Path) -> Iterator[str]:
    """Files of tasks' data sets of which one is there without a lock; in a locked data set, each by itself."""
    for path in needs.datasets_needed(plan):
        _, dataset, file = path.as_posix().split("/", 2)
        lock = locks.of_dataset(folder / "datasets", dataset, file)
        if lock is None:
            made = any((root / "datasets" / dataset).rglob("manifest.json"))
        else:
            made = not lock["files"] and (root / path).with_name("manifest.json").exists()
        if made:
            yield path.parent.as_posix()


def corpora_without_lock(plan: Plan, folder: Path, root: Path) -> Iterator[str]:
    """Corpora of data sets whose revision is not locked, and of which some corpus is there."""
    made = {manifests.read(path)["definition"].get("dataset") for path in (root / "corpora").glob("*/manifest.json")}
    for name, corpus in published_corpora(plan).items():
        if locks.of_corpus(folder / "datasets", corpus) is None and corpus["dataset"] in made:
            yield f"corpora/{name}"


def published_corpora(plan: Plan) -> dict[str, dict]:
    """The corpora that the study reads from a branch or tag of a hub's data set."""
    needed = needs.corpora_needed(plan, needs.tokens_needed(plan))
    return {
        name: corpus
        for name, corpus in plan.corpora.items()
        if name in needed and locks.is_published(corpus) and not locks.at_commit(corpus)
    }


def resolve_trajectory(plan: Plan, name: str, steps: list[int], folder: Path, here: set[str]) -> Iterator[str | None]:
    """Lock the revisions of a trajectory's steps, and its tokenizer; after each comes what is to be told of it."""
    trajectory, lock = plan.trajectories[name], locks.read(folder, name)
    for step in steps:
        wanted = trajectory.published(step)
        choose = partial(client.model_files, code=wanted["remote_code"])
        ask = partial(client.resolve, wanted["repo"], choose=choose)
        with telling() as notes:
            notes.append(lock_revision(lock, wanted["name"], ask, wanted["revision"], wanted["remote_code"]))
            if not lock.get("tokenizer") and f"tokenizers/{trajectory.tokenizer}" not in here:
                repo = trajectory.tokenizer_repo
                lock["tokenizer"] = locked_elsewhere(folder, repo) or client.resolve(
                    repo, "main", client.tokenizer_files
                )
        locks.write(folder, name, lock)
        yield notes[-1]


def lock_revision(lock: dict, name: str, ask: Callable, revision: str, needed: Iterable[str]) -> str | None:
    """Lock a revision under a name; if it has moved, needed files that the lock lacks are those of the locked commit.

    Args:
        ask: resolves a revision or commit.

    Returns:
        What moved.
    """
    moved = locks.merge(lock, name, ask(revision=revision), needed)
    known = lock["revisions"][name]
    if set(needed) - known["files"].keys():
        locks.merge(lock, name, ask(revision=known["commit"]), needed)
    return moved


def locked_elsewhere(folder: Path, repo: str) -> dict | None:
    """A tokenizer as the lock of another trajectory has it, so that all that share it keep sharing it."""
    known = (locks.read(folder, path.stem).get("tokenizer") for path in sorted((folder / "locks").glob("*.json")))
    return next((tokenizer for tokenizer in known if tokenizer and tokenizer["repo"] == repo), None)


def resolve_dataset(dataset: str, names: list[str], folder: Path) -> Iterator[str | None]:
    """Lock the files of a data set."""
    lock, ask = locks.read(folder, dataset), partial(fetch_dataset.resolve, dataset.replace("--", "/", 1), names)
    with telling() as notes:
        notes.append(lock_revision(lock, locks.CONVERTED, ask, locks.CONVERTED, names))
        locks.write(folder, dataset, lock)
    yield notes[-1]


def resolve_corpus(corpus: dict, folder: Path) -> Iterator[str | None]:
    """Lock the commit of a corpus's data set."""
    repo, revision, name = corpus["dataset"], locks.revision_of(corpus), locks.name_of(corpus)
    lock = locks.read(folder, name)
    with telling() as notes:
        found = {"repo": repo, "commit": client.commit_of_dataset(repo, revision), "files": {}}
        notes.append(locks.merge(lock, revision, found))
        locks.write(folder, name, lock)
    yield notes[-1]


@contextmanager
def telling() -> Iterator[list[str | None]]:
    """A list of notes, the last of which is why the hub does not give something; then others go on."""
    notes: list[str | None] = [None]
    try:
        yield notes
    except patience.Unreachable:
        raise
    except client.Unavailable as error:
        notes.append(str(error))


def main() -> None:
    """Resolve a study's revisions; the exit status is 1 if one has moved or is not given."""
    try:
        notes = resolve(load_plan(*sys.argv[1:]), FOLDER)
    except ValueError as error:
        sys.exit(f"resolve: {error}")
    if notes:
        sys.exit("\n".join(notes))
    print(f"locked below {FOLDER}/trajectories/locks and {FOLDER}/datasets/locks; commit the files to share them")


if __name__ == "__main__":
    main()
