"""Whether a study's texts are large enough, as far as sizes tell before work; only what certainly is not is named.

A tokenizer that is trained here makes at most one token of a byte, and ends each document with one more. Each of its
merges leaves the text that it is trained on at least one token shorter, so that B bytes give at most 256 + B entries.
"""

import glob
import os
from dataclasses import dataclass
from pathlib import Path

from scripts.lib.hub import locks
from scripts.lib.runtime import manifests
from scripts.lib.runtime.config_files import ConfigError
from scripts.lib.study import needs
from scripts.lib.study.config import share

SPLITS = ("train", "validation", "calibration")
CHARACTER = 4  # bytes of UTF-8 at most
BYTES = 256


@dataclass(frozen=True)
class Text:
    """Bytes and documents that a text has at most, and what tells it, for people."""

    bytes: int
    documents: int
    told_by: str


def too_small(plan) -> list[str]:
    """A line for each corpus, tokenizer and split that cannot be large enough; it says what there is and is needed.

    Raises:
        ConfigError: a lock of a corpus's data set is none.
    """
    drawn = needs.tokens_drawn(plan)
    trained = {name: plan.tokenizers[name] for name in needs.tokenizers_needed(plan, drawn) if _is_trained(plan, name)}
    asked = [tokens for uses in drawn.values() for tokens in uses.values()]
    most = max([0, *asked, *(definition["vocabulary"] for definition in trained.values())])
    lines, texts = [], {}
    for corpus in needs.corpora_needed(plan, drawn):
        texts |= {(corpus, split): text for split, text in made_texts(plan, corpus).items()}
        if (corpus, "train") not in texts:
            whole = text_of_files(plan.corpora[corpus], most)
            texts |= {(corpus, split): whole for split in SPLITS}
            lines += _too_few_documents(corpus, plan.corpora[corpus], whole)
    for name, definition in trained.items():
        lines += _too_large_vocabulary(name, definition, texts[definition["corpus"], "train"])
    for (tokenizer, corpus, split), uses in sorted(drawn.items()):
        lines += _too_few_tokens(plan, (tokenizer, corpus, split), texts[corpus, split], uses)
    return lines


def made_texts(plan, corpus: str) -> dict[str, Text]:
    """What each split of a corpus holds; nothing unless it was made of what its file says now."""
    path = Path(plan.paths.corpus(corpus), "manifest.json")
    manifest = _read(path)
    try:
        asked = locks.pin(plan.folder / "datasets", plan.corpora[corpus])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    made = {"revision": None} | manifest.get("definition", {})
    if made != asked | {"revision": asked.get("revision") or made["revision"]}:
        return {}
    sizes = {split: (entry["characters"], entry["documents"]) for split, entry in manifest["splits"].items()}
    return {split: Text(CHARACTER * size, number, str(path)) for split, (size, number) in sizes.items()}


def text_of_files(corpus: dict, enough: int) -> Text | None:
    """What all splits of a corpus of files, which is not made yet, hold together.

    Returns:
        None where that cannot be told: of another source, of parquet files (they are compressed), while a glob matches
        nothing, and once there are `enough` bytes, and documents too.
    """
    if corpus["source"] != "files":
        return None
    files, size, number, shortest = 0, 0, 0, corpus.get("minimum_characters", 1)
    wanted = max(corpus.get("documents", 0), len(SPLITS))
    for pattern in corpus["paths"]:
        before = files
        for path in filter(os.path.isfile, glob.iglob(pattern, recursive=True)):
            ending, own = Path(path).suffix, os.path.getsize(path)
            files, size = files + 1, size + own
            number += own // shortest if ending == ".jsonl" else own >= shortest
            if ending == ".parquet" or (size >= enough and number >= wanted):
                return None
        if files == before:
            return None
    return Text(size, number, "its files")


def counted_tokens(plan, tokenizer: str, corpus: str, split: str) -> int | None:
    """Tokens of a split, if they were counted of the corpus and by the tokenizer that there are now; else None."""
    path = Path(f"{plan.paths.tokens(tokenizer, corpus, split)}.json")
    folders = plan.paths.corpus(corpus), plan.paths.tokenizer(tokenizer)
    sources = [Path(folder, "manifest.json") for folder in folders]
    if not all(source.is_file() and path.is_file() and _age(source) <= _age(path) for source in sources):
        return None
    definition = plan.tokenizer_definition(tokenizer)
    fetched = definition["source"] == "hub"
    if not made_texts(plan, corpus) or not (fetched or _read(sources[1]).get("definition") == definition):
        return None
    return _read(path).get("tokens")


def _too_few_documents(name: str, corpus: dict, text: Text | None) -> list[str]:
    wanted = corpus.get("documents")
    splits = [split for split in SPLITS if share(corpus, split) > 0]
    if text and wanted and text.documents < wanted:
        return [f"corpus `{name}`: its files have at most {text.documents:,} documents, and `documents` is {wanted:,}"]
    most = min(wanted or len(splits), text.documents if text else len(splits))
    if most < len(splits):
        return [f"corpus `{name}`: of at most {most} documents each of {', '.join(splits)} needs one: see `fractions`"]
    return []


def _too_large_vocabulary(name: str, tokenizer: dict, text: Text | None) -> list[str]:
    if text is None or tokenizer["vocabulary"] <= BYTES + text.bytes:
        return []
    return [
        f"tokenizer `{name}`: corpus `{tokenizer['corpus']}`, split train, has at most {text.bytes:,} bytes "
        f"({text.told_by}), which give at most {BYTES + text.bytes:,} entries, and `vocabulary` is "
        f"{tokenizer['vocabulary']:,}"
    ]


def _too_few_tokens(plan, place: tuple[str, str, str], text: Text | None, uses: dict[str, int]) -> list[str]:
    tokenizer, corpus, split = place
    has = counted_tokens(plan, *place)
    if has is not None:
        told = f"{has:,} tokens of `{tokenizer}` ({plan.paths.tokens(*place)}.json)"
    elif text and _is_trained(plan, tokenizer):
        has = text.bytes + text.documents
        told = f"at most {has:,} tokens of `{tokenizer}` ({text.told_by})"
    else:
        return []
    return [
        f"corpus `{corpus}`, split {split}, has {told}, and {use} needs {tokens:,}"
        for use, tokens in uses.items()
        if has < tokens
    ]


def _is_trained(plan, tokenizer: str) -> bool:
    return plan.tokenizer_definition(tokenizer)["source"] == "train"


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _read(path: Path) -> dict:
    """A manifest; nothing where there is none, or a broken one, which Snakemake makes again."""
    try:
        return manifests.read(path)
    except (OSError, ValueError):
        return {}
