"""tokenize: turn one split of a corpus into a stream of token ids and an index of its documents."""

import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl

from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import Progress, open_log
from scripts.lib.runtime.shortages import Refused, refusing

BATCH = 1024
MOST_A_TOKEN = 32  # bytes of text, on average; known tokenizers have 3 to 8
FEWEST = 4096  # bytes of text that say something of that
MOST_CHARACTERS = 10**7  # that are encoded at once, for each takes 0.2 to 0.4 KB


def tokenize(text: str, tokenizer: str, names: dict[str, str], out: dict[str, str]) -> dict:
    """Encode every document of a parquet file, in file order, each followed by the end-of-text token.

    Marks of special tokens that stand in the text ("<|endoftext|>" in a docstring) are encoded as plain text, so the
    end-of-text token stands only between documents. Memory does not grow with the corpus, but for its index.

    Args:
        text: parquet file with the columns document and text; tokenizer: folder of a Hugging Face tokenizer.
        names: `tokenizer`, `corpus` and `split`, for the manifest.
        out: paths to write: `tokens` (.npy, 1-D, uint16, or uint32 from 65,536 entries or an id of 65,535 on),
            `documents` (parquet: document; start and tokens, in tokens of the stream, with the end-of-text token;
            characters; UTF-8 bytes) and `manifest`, which is also returned.

    Raises ValueError if the tokenizer has no end-of-text token, or fails on a document, as it may on rare words, or
    makes far too few tokens.
    """
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    if loaded.eos_token_id is None:
        raise ValueError(f"tokenizer {tokenizer} has no EOS token; set `eos_token` in its tokenizer_config.json")
    width = np.uint16 if max(len(loaded), largest_id(loaded) + 1) < 2**16 else np.uint32
    Path(out["tokens"]).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=Path(out["tokens"]).parent) as raw:
        try:
            with refusing(f"the tokenizer {tokenizer}", f"a document of {text}"):
                index = encode(text, loaded, raw, width)
        except Refused as error:
            raise ValueError(f"{error}; take another tokenizer, or tell its owners") from error
        count = int(index["tokens"].sum())
        if why := too_few(count - index.height, int(index["bytes"].sum())):
            raise ValueError(f"the tokenizer {tokenizer} does not fit {text}: {why}; take another tokenizer")
        np.save(out["tokens"], np.memmap(raw, dtype=width, mode="r") if count else np.empty(0, dtype=width))
    index.write_parquet(out["documents"], compression="zstd", compression_level=3)
    manifest = {
        "kind": "tokens",
        **names,
        "documents": index.height,
        "tokens": count,
        "vocabulary": len(loaded),
        "eos": loaded.eos_token_id,
        "sha256": manifests.sha256(out["tokens"]),
        "versions": manifests.versions(("tokenizers", "transformers")),
    }
    manifests.write(out["manifest"], manifest)
    logging.getLogger("trajquant").info("%d documents, %d tokens", index.height, count)
    return manifest


def too_few(tokens: int, size: int) -> str:
    """What to say of a tokenizer that makes so few tokens, none of which ends a text, of so many bytes; else nothing.

    Of one that makes a token of a document there may be not one whole window.
    """
    if size < FEWEST or size <= MOST_A_TOKEN * tokens:
        return ""
    return f"it makes {tokens} tokens of {size} bytes of text, and one in {MOST_A_TOKEN} at least is needed"


def largest_id(tokenizer) -> int:
    """The largest id of a vocabulary, which may have gaps."""
    return max(tokenizer.get_vocab().values(), default=0)


def encode(text: str, tokenizer, raw: BinaryIO, width: type) -> pl.DataFrame:
    """Write the ids of all documents to the open file `raw`, batch by batch, and return the documents' index."""
    import pyarrow.parquet

    end = tokenizer.eos_token_id
    parts = []
    with pyarrow.parquet.ParquetFile(text) as file:
        progress = Progress(file.metadata.num_rows, "documents")
        done = 0
        for part in file.iter_batches(batch_size=BATCH, columns=["document", "text"]):
            table = pl.from_arrow(part)
            ids = [[*row, end] for row in encode_batch(tokenizer, table["text"].to_list())]
            np.concatenate([np.asarray(row, dtype=width) for row in ids]).tofile(raw)
            parts.append(
                table.select(
                    "document",
                    pl.Series("tokens", [len(row) for row in ids], dtype=pl.Int64),
                    characters=pl.col("text").str.len_chars().cast(pl.Int64),
                    bytes=pl.col("text").str.len_bytes().cast(pl.Int64),
                )
            )
            done += table.height
            progress.update(done)
    raw.flush()
    empty = {"document": pl.String, "tokens": pl.Int64, "characters": pl.Int64, "bytes": pl.Int64}
    index = pl.concat([pl.DataFrame(schema=empty), *parts])
    start = (pl.col("tokens").cum_sum() - pl.col("tokens")).alias("start")
    return index.select("document", start, "tokens", "characters", "bytes")


def encode_batch(tokenizer, texts: list[str]) -> list[list[int]]:
    """Ids of each whole text, without any special token, whatever a tokenizer.json says of its length."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    backend.no_truncation()
    backend.no_padding()
    groups = within(texts, MOST_CHARACTERS)
    return [item.ids for group in groups for item in backend.encode_batch_fast(group, add_special_tokens=False)]


def within(texts: list[str], most: int) -> Iterator[list[str]]:
    """Texts in their order, in groups of at most so many characters, or of one text that is longer."""
    group, size = [], 0
    for text in texts:
        if group and size + len(text) > most:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    names = {key: snakemake.params[key] for key in ("tokenizer", "corpus", "split")}
    open_log(snakemake.log[0], f"tokenize {names['corpus']} {names['split']} with {names['tokenizer']}")
    tokenize(
        snakemake.input.text,
        snakemake.input.tokenizer,
        names,
        {key: snakemake.output[key] for key in ("tokens", "documents", "manifest")},
    )
