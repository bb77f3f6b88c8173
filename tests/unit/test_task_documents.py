"""Benchmark documents: each cut gives back the text, choices are fair, files are the same every time."""

import hashlib
import json
import random
from pathlib import Path

import polars as pl
import pytest

from scripts.lib.runtime.manifests import sha256
from scripts.task_documents import FEWEST_WORDS, cloze_document, rolling_document, task_documents

WORDS = ["layer", "weight", "tensor", "shape", "returns", "input", "model", "gradient", "array", "value", "token"]
TASKS = ("choice", "cloze", "rolling")


def make_corpus(path: Path, documents: int = 40, words: int = 60) -> dict[str, str]:
    """Write a validation parquet of random sentences; returns {document: text}."""
    rng = random.Random(0)
    texts = []
    for _ in range(documents):
        sentences = [" ".join(rng.choices(WORDS, k=10)).capitalize() + "." for _ in range(words // 10)]
        texts.append("\n".join(sentences))
    ids = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts]
    pl.DataFrame({"document": ids, "text": texts, "source": ["test"] * documents}).write_parquet(path)
    return dict(zip(ids, texts, strict=True))


def make(folder: Path, seed: int = 0, documents: int = 100) -> dict[str, list[dict]]:
    outputs = {task: folder / f"{task}.jsonl" for task in TASKS}
    task_documents(folder / "validation.parquet", "toy", seed, documents, outputs, folder / "manifest.json")
    return {task: [json.loads(line) for line in path.read_text().splitlines()] for task, path in outputs.items()}


def test_every_cut_gives_back_the_text(tmp_path):
    texts = make_corpus(tmp_path / "validation.parquet")
    made = make(tmp_path)
    assert {task: len(items) for task, items in made.items()} == dict.fromkeys(TASKS, 40)
    for item in made["choice"]:
        assert texts[item["document"]].startswith(f"{item['context']} {item['choices'][item['label']]}")
        assert len(item["context"].split()) >= FEWEST_WORDS
    for item in made["cloze"]:
        assert texts[item["document"]].startswith(f"{item['context']}{item['target']}.")
        assert item["target"].startswith(" ")
        assert item["target"][1:].isalpha()
    for item in made["rolling"]:
        assert texts[item["document"]] == item["text"]


def test_choices_differ_are_about_as_long_and_the_right_one_stands_anywhere(tmp_path):
    texts = make_corpus(tmp_path / "validation.parquet", documents=200)
    items = make(tmp_path, documents=200)["choice"]
    assert all(len(set(item["choices"])) == 4 for item in items)
    assert {item["label"] for item in items} == {0, 1, 2, 3}
    for item in items:
        others = [text for index, text in enumerate(item["choices"]) if index != item["label"]]
        assert all(other in "".join(texts.values()) and other not in texts[item["document"]] for other in others)
    longest = sum(max(item["choices"], key=len) == item["choices"][item["label"]] for item in items)
    assert 20 <= longest <= 90


def test_same_seed_same_bytes_and_fewer_documents_are_the_beginning(tmp_path):
    make_corpus(tmp_path / "validation.parquet")
    first, hashes = make(tmp_path), [sha256(tmp_path / f"{task}.jsonl") for task in TASKS]
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert make(tmp_path) == first
    assert [sha256(tmp_path / f"{task}.jsonl") for task in TASKS] == hashes
    assert [manifest["tasks"][task]["sha256"] for task in TASKS] == hashes
    assert make(tmp_path, documents=7) == {task: items[:7] for task, items in first.items()}
    assert make(tmp_path, seed=1)["choice"] != first["choice"]


def test_a_corpus_that_is_too_small_is_refused(tmp_path):
    make_corpus(tmp_path / "validation.parquet", documents=3)
    with pytest.raises(ValueError, match="corpus 'toy': none of its 3 validation documents suits the choice task"):
        make(tmp_path)


def test_words_of_a_million_letters_become_no_documents(tmp_path):
    """A hub's documents of 10 million characters would stand in each choice of others."""
    texts = make_corpus(tmp_path / "validation.parquet")
    expected = make(tmp_path)
    long = [" ".join(f"w{number}{'x' * 10**4}" for number in range(60)) + " ends here. It does." for _ in range(9)]
    frame = pl.DataFrame(
        {"document": [*texts, *(f"f{number:015x}" for number in range(9))], "text": [*texts.values(), *long]}
    )
    frame.write_parquet(tmp_path / "validation.parquet")
    found = make(tmp_path)
    assert found == expected
    assert max(len(item["context"]) for item in found["choice"]) < 10**4


def test_documents_that_do_not_suit_are_left_out():
    assert cloze_document({"document": "a", "text": ""}) is None
    assert cloze_document({"document": "a", "text": "Too short a beginning."}) is None
    assert cloze_document({"document": "a", "text": "no sentence ends here " * 10}) is None
    assert rolling_document({"document": "a", "text": "short"}) is None
