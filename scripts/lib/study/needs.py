"""What a study needs from outside of its cells: checkpoints and what they are made of, text, tokenizers, data."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

MADE = ("choice.jsonl", "cloze.jsonl", "rolling.jsonl")  # of a corpus's validation split, for tasks


def checkpoints_needed(plan) -> list[tuple[str, int]]:
    """(trajectory, step) of all checkpoints that the study measures or averages."""
    found, left = set(), list(plan.checkpoints)
    while left:
        name, step = left.pop()
        if (name, step) not in found:
            found.add((name, step))
            left += plan.trajectories[name].made_from(step)
    return sorted(found)


def published_needed(plan) -> list[tuple[str, int]]:
    """(trajectory, step) of those checkpoints that come from a hub."""
    return [point for point in checkpoints_needed(plan) if plan.trajectories[point[0]].source == "hub"]


def links_needed(plan) -> list[tuple[str, str]]:
    """(trajectory, link) of all training that the study's checkpoints need."""
    needed = [point for point in checkpoints_needed(plan) if plan.trajectories[point[0]].source == "train"]
    left, found = {(name, plan.trajectories[name].link_of(step)) for name, step in needed}, set()
    while left:
        name, link = left.pop()
        found.add((name, link))
        parent = plan.trajectories[name].links[link]["parent"]
        if parent and parent not in found:
            left.add(parent)
    return sorted(found)


def tokens_needed(plan) -> list[tuple[str, str, str]]:
    """(tokenizer, corpus, split) of all token files: to train on, to be measured on, to calibrate and check with."""
    return sorted(tokens_drawn(plan))


def tokens_drawn(plan) -> dict[tuple[str, str, str], dict[str, int]]:
    """What is drawn from which tokens.

    Returns:
        (tokenizer, corpus, split) -> what for, for people -> tokens without which it fails.
    """
    found, window = defaultdict(dict), plan.config["evaluate_loss"]["window"]
    for name in sorted({name for name, _ in links_needed(plan)}):
        run = plan.trajectories[name]
        found[run.tokenizer, run.corpus, "train"][f"a window of `{name}`"] = run.window
    for name in sorted({name for name, _ in checkpoints_needed(plan)}):
        run = plan.trajectories[name]
        if settings := getattr(run, "calibration", None):
            use, tokens = told(f"`{name}`", settings)
            found[run.tokenizer, settings["corpus"], "calibration"][use] = tokens
    for cell in plan.cells:
        tokenizer = plan.trajectories[cell.trajectory].tokenizer
        for corpus in plan.losses[cell]:
            found[tokenizer, corpus, "validation"]["a window of `evaluate_loss`"] = window
        for corpus in plan.slices.get(cell, []):
            found[tokenizer, corpus, "validation"]["a window of `slice`"] = window
        if cell.method in plan.recipes:
            drawn = {"`quantize.probe`": plan.config["quantize"]["probe"]}
            drawn |= {f"`{cell.method}`": plan.recipes[cell.method].get("calibration")}
            for use, settings in drawn.items():
                if settings:
                    use, tokens = told(use, settings)
                    found[tokenizer, settings["corpus"], "calibration"][use] = tokens
    return dict(found)


def told(use: str, drawn: dict) -> tuple[str, int]:
    """What a drawn text is for, for people, and its tokens."""
    samples, length = drawn["samples"], drawn["window"]
    return f"{use} ({samples} windows of {length})", samples * length


def tokenizers_needed(plan, tokens: Iterable[tuple[str, str, str]]) -> list[str]:
    """Tokenizers of these tokens, and those that are fetched with checkpoints."""
    fetched = {plan.trajectories[name].tokenizer for name, _ in published_needed(plan)}
    return sorted({tokenizer for tokenizer, _, _ in tokens} | fetched)


def corpora_needed(plan, tokens: Iterable[tuple[str, str, str]]) -> list[str]:
    """Corpora of these tokens, of tokenizers that are trained, and of the tasks' documents."""
    tokenizers = tokenizers_needed(plan, tokens)
    trained = {plan.tokenizer_definition(tokenizer).get("corpus") for tokenizer in tokenizers} - {None}
    return sorted({corpus for _, corpus, _ in tokens} | trained | set(documents_needed(plan)))


def documents_needed(plan) -> list[str]:
    """Corpora whose validation split becomes documents of the study's own tasks."""
    return corpora_of_documents(_files_of_suites(plan, "documents"))


def corpora_of_documents(files: Iterable[Path]) -> list[str]:
    """Corpora of which the workflow makes these files, below the resources folder; others are a user's own."""
    parts = [path.parts for path in files if path.name in MADE]
    return sorted({names[1] for names in parts if len(names) == 3 and names[0] == "tasks"})


def datasets_needed(plan) -> list[Path]:
    """Files of data sets that the harness's own tasks read, below the resources folder."""
    return sorted(_files_of_suites(plan, "datasets"))


def _files_of_suites(plan, kind: str) -> set[Path]:
    return {Path(path) for suite in _suites_asked(plan) for path in plan.suites[suite][kind]}


def _suites_asked(plan) -> set[str]:
    return {suite for suites in plan.tasks.values() for suite in suites}
