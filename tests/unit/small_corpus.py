"""A split of a few texts, the tokenizer of bytes that is trained on it, and what the stage `tokenize` makes of both."""

from pathlib import Path

import polars as pl

from scripts.tokenize import tokenize
from scripts.tokenizer import tokenizer

TEXTS = [f"Row {number}: ünïcode 漢字 😀 " + "again " * (number % 7) for number in range(60)]
NAMES = {"tokenizer": "tiny", "corpus": "small", "split": "validation"}
VOCABULARY = 300


def write_corpus(folder: Path, texts: list[str]) -> Path:
    """Write `text.parquet` and `tokenizer` into a folder, and return that."""
    table = pl.DataFrame({"document": [f"{number:016x}" for number in range(len(texts))], "text": texts})
    table.write_parquet(folder / "text.parquet")
    definition = {"source": "train", "corpus": "small", "vocabulary": VOCABULARY}
    tokenizer(definition, "tiny", str(folder / "text.parquet"), str(folder / "tokenizer"), str(folder / "m.json"))
    return folder


def tokenize_corpus(inputs: Path, folder: Path, text: str = "text.parquet") -> dict:
    """Write `s.npy`, `s.parquet` (its documents) and `s.json` of a file of `inputs`; returns the last's content."""
    out = {"tokens": "s.npy", "documents": "s.parquet", "manifest": "s.json"}
    places = {key: str(folder / name) for key, name in out.items()}
    return tokenize(str(inputs / text), str(inputs / "tokenizer"), NAMES, places)
