"""Benchmark documents for the tasks in config/tasks, cut from the validation documents of a corpus."""

import hashlib
import itertools
import json
import re
from pathlib import Path

import polars as pl

from scripts.lib.runtime import manifests

FEWEST_WORDS = 12  # the fewest words before a question
CONTEXT_WORDS = 24  # the most words before a continuation
CONTINUATION_WORDS = 10
CLOZE_WORDS = 48  # a cloze asks for the end of a sentence within the first so many words
CHOICES = 4
NEIGHBOURS = 24  # wrong continuations come from so many documents nearest in length
LONGEST = 10**5  # characters of those words; of scripts without blanks a word is a sentence
ROLLING_CHARACTERS = (100, 1000)
SENTENCE_END = re.compile(r"(?<=\S) [A-Za-z]{3,}(?=[.!?](?:\s|$))")


def task_documents(
    text: Path | str, corpus: str, seed: int, documents: int, outputs: dict[str, Path], manifest: Path | str
) -> None:
    """Write the documents of the three tasks as JSON lines, and a manifest of them.

    A document's place in a file follows from the seed and its own id, so fewer documents are the beginning of more.

    Args:
        text: parquet of the corpus's validation split with columns document, text.
        corpus: name of the corpus, for the manifest and messages.
        seed: decides which documents come first, the wrong choices, and where the right one stands.
        documents: at most so many a task.
        outputs: {"choice", "cloze", "rolling"}: the JSONL files to write.
        manifest: JSON file to write.

    Raises:
        ValueError: the corpus is too small for a task.
    """
    frame = pl.read_parquet(text, columns=["document", "text"])
    rows = sorted(frame.iter_rows(named=True), key=lambda row: _order(seed, row["document"]))
    made = {
        "choice": choice_documents(rows, seed, documents),
        "cloze": _first(documents, map(cloze_document, rows)),
        "rolling": _first(documents, map(rolling_document, rows)),
    }
    for task, items in made.items():
        if not items:
            raise ValueError(
                f"corpus {corpus!r}: none of its {len(rows)} validation documents suits the {task} task; "
                "give it longer or more documents"
            )
        Path(outputs[task]).parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in items]
        Path(outputs[task]).write_text("".join(lines), encoding="utf-8")
    files = {name: {"documents": len(items), "sha256": manifests.sha256(outputs[name])} for name, items in made.items()}
    content = {"kind": "task_documents", "corpus": corpus, "seed": seed, "source": manifests.sha256(text)}
    manifests.write(manifest, content | {"tasks": files})


def choice_documents(rows: list[dict], seed: int, documents: int) -> list[dict]:
    """Four-way continuation choice: the beginning of a document, its continuation, and three of other documents.

    The wrong ones are taken from the documents whose continuations are nearest in characters, so that length tells
    nothing.

    Args:
        rows: documents in their seeded order.
        seed: decides the wrong choices and the place of the right one.
        documents: at most so many.

    Returns:
        [{"document", "context", "choices": [4 texts], "label": index of the right one}, ...]; empty where fewer than
        four documents are long enough.
    """
    items = [item for item in map(_continuation, rows) if item is not None]
    by_length = sorted(items, key=lambda item: (len(item["continuation"]), item["document"]))
    rank = {item["document"]: index for index, item in enumerate(by_length)}
    return _first(documents, (_with_choices(item, by_length, rank[item["document"]], seed) for item in items))


def cloze_document(row: dict) -> dict | None:
    """Last-word cloze: everything before the last word of a sentence, and that word.

    The sentence is the last that ends within the first `CLOZE_WORDS` words.

    Returns:
        {"document", "context", "target": the word with the space before it}, or None where no sentence suits.
    """
    words = first_words(row["text"], CLOZE_WORDS)
    end = words[-1].end() if words else 0
    ends = list(itertools.takewhile(lambda match: match.end() < end, SENTENCE_END.finditer(row["text"])))
    if not ends or len(row["text"][: ends[-1].start()].split()) < FEWEST_WORDS:
        return None
    return {
        "document": row["document"],
        "context": row["text"][: ends[-1].start()].lstrip(),
        "target": ends[-1].group(),
    }


def rolling_document(row: dict) -> dict | None:
    """A whole document for rolling bits per byte, or None where it is very short or very long."""
    shortest, longest = ROLLING_CHARACTERS
    suits = shortest <= len(row["text"]) <= longest
    return {"document": row["document"], "text": row["text"]} if suits else None


def first_words(text: str, count: int) -> list[re.Match]:
    """The first so many words of a text; a list of all those of a long document takes gigabytes.

    None where they have more than `LONGEST` characters, which would stand in a document for each choice.
    """
    words = list(itertools.islice(re.finditer(r"\S+", text), count))
    return words if words and words[-1].end() - words[0].start() <= LONGEST else []


def _continuation(row: dict) -> dict | None:
    """Cut a document at a plain space into context and continuation; about half of a short one is context."""
    words = first_words(row["text"], CONTEXT_WORDS + CONTINUATION_WORDS)
    longest = min(CONTEXT_WORDS, len(words) - CONTINUATION_WORDS)
    for cut in range(longest, FEWEST_WORDS - 1, -1):
        start, end = words[cut - 1].end(), words[cut].start()
        if row["text"][start:end] == " ":
            return {
                "document": row["document"],
                "context": row["text"][words[0].start() : start],
                "continuation": row["text"][end : words[cut + CONTINUATION_WORDS - 1].end()],
            }
    return None


def _with_choices(item: dict, by_length: list[dict], rank: int, seed: int) -> dict | None:
    """Add three wrong continuations to one document; None where fewer than three others differ from the right one."""
    first = max(0, min(rank - NEIGHBOURS // 2, len(by_length) - NEIGHBOURS - 1))
    near = by_length[first : first + NEIGHBOURS + 1]
    near = sorted(near, key=lambda other: _order(seed, item["document"] + other["document"]))
    right = item["continuation"]
    wrong = [text for text in dict.fromkeys(other["continuation"] for other in near) if text != right]
    if len(wrong) < CHOICES - 1:
        return None
    label = int(_order(seed, item["document"] + "label"), 16) % CHOICES
    choices = [*wrong[:label], right, *wrong[label : CHOICES - 1]]
    return {"document": item["document"], "context": item["context"], "choices": choices, "label": label}


def _first(count: int, items) -> list:
    """The first `count` items that are not None."""
    return list(itertools.islice((item for item in items if item is not None), count))


def _order(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    job = snakemake
    open_log(job.log[0], f"task_documents {job.params.corpus}")
    outputs = {task: Path(job.output[task]) for task in ("choice", "cloze", "rolling")}
    params = job.params
    task_documents(job.input.text, params.corpus, params.seed, params.documents, outputs, job.output.manifest)
