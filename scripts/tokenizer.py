"""tokenizer: train a byte-level BPE tokenizer on a corpus, or take the tokenizer of a model folder."""

import logging
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from scripts.lib.runtime import manifests
from scripts.lib.runtime.logs import open_log

END = "<|endoftext|>"


def tokenizer(definition: dict, name: str, text: str | None, folder: str, manifest_path: str) -> dict:
    """Write a Hugging Face tokenizer to `folder`, and its manifest.

    Args:
        definition: the tokenizer's file: `{source: train, corpus, vocabulary}` or `{source: model, path}`.
        name: the tokenizer's name.
        text: parquet file with column `text` to train on; only for source train.
        folder: where to write the tokenizer's files.
        manifest_path: where to write the manifest.

    Returns:
        The manifest.

    Raises:
        ValueError: unknown source, no model at `path`, no end-of-text token, or too little text for the vocabulary.
    """
    if definition["source"] == "train":
        made = train(text, definition["vocabulary"], name)
    elif definition["source"] == "model":
        made = take(definition["path"], name)
    else:
        raise ValueError(f"tokenizer {name}: source is {definition['source']!r}, neither train nor model")
    with manifests.staged_folder(folder) as scratch:
        made.save_pretrained(scratch)
    manifest = {
        "kind": "tokenizer",
        "tokenizer": name,
        "definition": definition,
        "vocabulary": len(made),
        "eos": made.eos_token_id,
        "files": manifests.describe_files(folder),
        "versions": manifests.versions(("tokenizers", "transformers")),
    }
    manifests.write(manifest_path, manifest)
    logging.getLogger("trajquant").info("%d entries, end of text is %d", manifest["vocabulary"], manifest["eos"])
    return manifest


def train(text: str, vocabulary: int, name: str):
    """A byte-level BPE tokenizer with `vocabulary` entries, of which 256 are the bytes and one ends a text and pads.

    Byte-level BPE as in GPT-2 (Radford et al. 2019): any text is encoded without loss. Equal text gives equal files.

    Raises:
        ValueError: `vocabulary` is below 257, or the text is too small for so many entries.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if vocabulary < 257:
        raise ValueError(f"tokenizer {name}: vocabulary is {vocabulary}, at least 257 are needed (bytes and {END})")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts(text), trainer=trainer)
    if bpe.get_vocab_size() != vocabulary:
        raise ValueError(
            f"tokenizer {name}: {text} gives only {bpe.get_vocab_size()} entries, {vocabulary} are asked for; "
            f"lower `vocabulary` or train on a larger corpus"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=END, clean_up_tokenization_spaces=False
    )


def texts(path: str, batch: int = 1024) -> Iterator[list[str]]:
    """Batches of the column `text` of a parquet file."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for part in file.iter_batches(batch_size=batch, columns=["text"]):
            yield pl.from_arrow(part)["text"].to_list()


def take(path: str, name: str):
    """The tokenizer of a model folder, without a network.

    Raises:
        ValueError: the folder is missing or holds no tokenizer, or the tokenizer has no end-of-text token.
    """
    from transformers import AutoTokenizer

    if not Path(path).is_dir():
        raise ValueError(f"tokenizer {name}: path {path!r} is not a folder")
    try:
        taken = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of its many readers
        raise ValueError(f"tokenizer {name}: no tokenizer can be loaded from {path}: {error}") from error
    if taken.eos_token_id is None:
        raise ValueError(f"tokenizer {name}: {path} has no EOS token; set `eos_token` in its tokenizer_config.json")
    if isinstance(taken.chat_template, dict):  # several, which would be saved in a folder of their own; none is used
        taken.chat_template = taken.chat_template.get("default")
    taken.init_kwargs.pop("auto_map", None)  # a class of a repository's own code, which is not the one that was taken
    return taken


if __name__ == "__main__":
    open_log(snakemake.log[0], f"tokenizer {snakemake.params.tokenizer}")
    tokenizer(
        snakemake.params.definition,
        snakemake.params.tokenizer,
        snakemake.input.get("text"),
        snakemake.output.tokenizer,
        snakemake.output.manifest,
    )
