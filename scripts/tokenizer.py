"""tokenizer: train a byte-level BPE tokenizer on a corpus, or take the tokenizer of a model folder."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import polars as pl

from scripts.lib.models import taking
from scripts.lib.runtime import manifests
from scripts.lib.runtime.confined import confined
from scripts.lib.runtime.logs import open_log
from scripts.lib.runtime.shortages import is_shortage, kind_and_message
from scripts.tokenize import encode_batch, largest_id, too_few

END = "<|endoftext|>"
MEMORY, SECONDS = 4 * 2**30, 300  # bytes, and time on a core, to load a tokenizer and encode `SAMPLE`; in config/README
RUN = 2000  # letters
SAMPLE = ["", "a b " * (RUN // 4), "ab" * (RUN // 2), *(chr(code) * RUN for code in range(32, 127)), "\n" * RUN]
SAMPLE += ["def mean(of):\n    return sum(of) / len(of)  # 1.5e-3\n", "Ünïcode, 漢字, кириллица, عربي and 🙂. " * 50]
PAGE = " ".join(
    f"Of the {10 * number} people in that town some went to another place by train." for number in range(70)
)
RARE = "".join(map(chr, (*range(0xA1, 0xD800), *range(0x1F300, 0x1FB00))))  # letters of all scripts, signs, emoji
FEW = 16  # letters, among which one that becomes many tokens shows
SAMPLE += [PAGE, RARE, *("".join(letters) for letters in zip(*[iter(RARE)] * FEW, strict=False))]
AT_ONCE = 128  # texts
LONGEST_ENTRY = 4096  # bytes of an entry of a vocabulary; runs of blanks or lines of a thousand are known
LONGEST_PART = 64  # bytes of what is given, or tried, for a letter: the entry of those that it does not know, affixes
MOST_BYTES = 64  # of the entries that stand for a byte of a document
LARGEST_ID = 10**7  # of a token, for there are lists by it; the largest known vocabularies have some 300,000 entries
MOST_TOKENS = 16  # a byte of a document, and as many at its ends


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
        ValueError: unknown source, no model at `path`, no end-of-text token, too little text for the vocabulary, or a
            tokenizer of a model that takes too much.
    """
    with ExitStack() as stack:
        if definition["source"] == "train":
            made = train(text, definition["vocabulary"], name)
        elif definition["source"] == "model":
            made = take(stack.enter_context(tried_out(definition["path"], name)))
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


@contextmanager
def tried_out(path: str, name: str) -> Iterator[str]:
    """A folder with the files of a model folder's tokenizer, by their known names, once they have been tried out.

    Raises:
        ValueError: the folder is missing, or its tokenizer does not load or takes too much; or what is wrong with it in
            the block, with the model folder's path.
    """
    if not Path(path).is_dir():
        raise ValueError(f"tokenizer {name}: path {path!r} is not a folder")
    with tempfile.TemporaryDirectory(prefix="trajquant-tokenizer-") as scratch:
        try:
            taking.link(Path(path), (*taking.CONFIG_FILES, *taking.OF_TOKENIZER), Path(scratch))
            taking.clean_tokenizer(Path(scratch))
            try_out(Path(scratch))
            yield scratch
        except Exception as error:  # of whatever a tokenizer's files make transformers do
            if is_shortage(error):
                raise
            why = str(error) if isinstance(error, ValueError) else kind_and_message(error)
            raise ValueError(f"tokenizer {name}: {why.replace(scratch, path)}") from error


def try_out(folder: Path) -> None:
    """Load the tokenizer of a folder, if it has one, and encode a page with it, in a process of its own.

    Raises:
        ValueError: that fails, takes more than `MEMORY` or `SECONDS`, or gives too many tokens, or too few.
    """
    import transformers  # noqa: F401 - once, and not in each child

    files = [name for name in taking.OF_TOKENIZER if (folder / name).is_file()]
    if not files:
        return
    with tempfile.TemporaryDirectory(prefix="trajquant-tokenizer-") as saved:  # here, for the process may be killed
        try:
            confined(lambda: encode_and_save(str(folder), saved), MEMORY, SECONDS)
        except ValueError as error:
            why = str(error).replace(saved, "what was saved of it")
            raise ValueError(f"{why} (to load {', '.join(files)}, to encode a page of text and to save it)") from error


def encode_and_save(folder: str, saved: str) -> None:
    """Load a tokenizer, encode `SAMPLE` and save it, as is done with each, and the same with what was saved.

    Raises:
        ValueError: a document has too many or too few tokens, or ids that are none, or other ones by what was saved; or
            an entry is too long.
        Exception: whatever its files make transformers raise.
    """
    loaded = load(folder)
    plain = encode_sample(loaded)
    loaded.save_pretrained(saved)
    if encode_sample(load(saved)) != plain:
        raise ValueError("it makes other tokens once it has been saved")


def encode_sample(loaded) -> list[list[int]]:
    """The ids of `SAMPLE`; a ValueError where a document has too many or too few tokens, or ids that are none."""
    largest = largest_id(loaded)
    if largest > LARGEST_ID:
        raise ValueError(f"it has the id {largest}, and {LARGEST_ID} is the largest that is taken")
    if not isinstance(loaded.eos_token_id, int | None):
        raise ValueError("its `eos_token` is no token")
    require_short(loaded)
    sizes, plain = {number: len(entry.encode()) for entry, number in loaded.get_vocab().items()}, []
    for first in range(0, len(SAMPLE), AT_ONCE):
        texts = SAMPLE[first : first + AT_ONCE]
        found, marked = encode_batch(loaded, texts), loaded.backend_tokenizer.encode_batch_fast(texts)
        for text, ids in zip(texts * 2, [*found, *(encoding.ids for encoding in marked)], strict=True):
            require_fitting(ids, len(text.encode()), largest, sizes)
        plain += found
    if why := too_few(len(plain[SAMPLE.index(PAGE)]), len(PAGE)):
        raise ValueError(why)
    return plain


def require_fitting(ids: list[int], size: int, largest: int, sizes: dict[int, int]) -> None:
    """Check the ids of a text of so many bytes, with the largest id of the vocabulary and the bytes of its entries.

    Raises:
        ValueError: they are too many, or stand for too much, or one is none.
    """
    if max(ids, default=0) > largest:
        raise ValueError(f"it makes id {max(ids)} of a text, and the largest of its vocabulary is {largest}")
    if len(ids) > MOST_TOKENS * (size + 1):
        raise ValueError(f"it makes {len(ids)} tokens of a text of {size} bytes")
    if (made := sum(sizes.get(number, 0) for number in ids)) > MOST_BYTES * (size + 1):
        raise ValueError(f"it makes tokens of {made} bytes of a text of {size}")


def require_short(loaded) -> None:
    """Check that no entry of a vocabulary, and nothing that stands for a letter, takes far more memory than a text.

    Raises:
        ValueError: one does.
    """
    model = loaded.backend_tokenizer.model
    parts = {name: getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix")}
    parts |= {"unk_token": getattr(model, "unk_token", None), "unk_token of its settings": loaded.unk_token}
    for name, part in parts.items():
        if (size := len((part or "").encode())) > LONGEST_PART:
            raise ValueError(f"its {name} has {size} bytes, and {LONGEST_PART} at most are taken")
    if (size := max((len(entry.encode()) for entry in loaded.get_vocab()), default=0)) > LONGEST_ENTRY:
        raise ValueError(f"its vocabulary has an entry of {size} bytes, and {LONGEST_ENTRY} at most are taken")


def load(folder: str):
    """The tokenizer of a folder, without a network; a ValueError where it does not load."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of its many readers
        raise ValueError(f"no tokenizer can be loaded from {folder}: {error}") from error


def take(path: str):
    """The tokenizer of a folder.

    Raises:
        ValueError: the folder holds no tokenizer, or one without an end-of-text token.
    """
    taken = load(path)
    if taken.eos_token_id is None:
        raise ValueError(f"{path} has no EOS token; set `eos_token` in its tokenizer_config.json")
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
