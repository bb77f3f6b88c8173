"""make prefetch STUDY=X, second half: proves without a network that the study's tasks and corpora can be used.

Each task makes the requests of one document, with its examples, and of each corpus one document is read and tokenized.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import polars as pl

from scripts.evaluate_tasks import OFFLINE, build_tasks
from scripts.lib.data import suites
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.runtime.shortages import kind_and_message
from scripts.lib.study import needs
from scripts.lib.study.plan import Plan, load_plan

FOLDER = Path("config/tasks")


def checks(plan: Plan, folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """What is to be proved: for people, and a function that proves it and says how.

    Args:
        plan: the study.
        folder: that of suites and task files.
    """
    root = Path(plan.config["folders"]["resources"])
    for suite in plan.suites:
        known = suites.load_tasks(suites.load_suite(folder / f"suite-{suite}.yaml"), folder)
        for name, task in known.items():
            yield f"suite {suite}: task {name}", partial(make_requests, name, task, root)
    tokens, hub = needs.tokens_needed(plan), set(plan.by_source("hub"))
    fetched = {plan.trajectories[name].tokenizer for name in {name for name, _ in plan.checkpoints} & hub}
    for corpus in needs.corpora_needed(plan, tokens):
        used = sorted(fetched & {tokenizer for tokenizer, other, _ in tokens if other == corpus})
        yield f"corpus {corpus}", partial(read_document, root / "corpora" / corpus, root, used)


def make_requests(name: str, task: suites.Task, root: Path) -> str:
    """Turn the first document of a task into requests, as the harness does before it asks a model."""
    with tempfile.TemporaryDirectory(prefix="trajquant-prefetch-") as cache:
        built = build_tasks({name: task}, root, cache)[name]
        built.build_all_requests(limit=1)
        return f"{len(built.instances)} requests with {task.shots} examples"


def read_document(corpus: Path, root: Path, tokenizers: list[str]) -> str:
    """Read the first document of a corpus, and tokenize it with those of the study's tokenizers that are fetched."""
    from scripts.lib.models.loading import load_tokenizer
    from scripts.tokenize import encode_batch

    text = pl.scan_parquet(corpus / "*.parquet").select("text").head(1).collect().item()
    loaded = {name: load_tokenizer(root / "tokenizers" / name / "tokenizer") for name in tokenizers}
    counts = {name: len(encode_batch(tokenizer, [text])[0]) for name, tokenizer in loaded.items()}
    return ", ".join([f"{len(text)} characters", *(f"{count} tokens of {name}" for name, count in counts.items())])


def prove(plan: Plan, folder: Path) -> bool:
    """Print a line for each check; returns whether all passed. Whatever goes wrong in one is its line."""
    passed = True
    for what, check in checks(plan, folder):
        try:
            print(f"ok      {what}: {check()}", flush=True)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of Rust, as of tokenizers, is no Exception
            print(f"failed  {what}: {kind_and_message(error)}", flush=True)
            passed = False
    if not plan.config["fetch"]["keep_weights"] and plan.by_source("hub"):
        print("later   checkpoints: each is fetched when its turn comes (`fetch.keep_weights` is false)", flush=True)
    return passed


def main() -> None:
    """Prove a study's data; the exit status is 1 if one of them cannot be used."""
    os.environ |= OFFLINE | {"TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}  # before any library reads them
    try:
        plan = load_plan(*sys.argv[1:])
    except ConfigError as error:
        sys.exit(f"prefetch: {error}")
    sys.exit(0 if prove(plan, FOLDER) else 1)


if __name__ == "__main__":
    main()
