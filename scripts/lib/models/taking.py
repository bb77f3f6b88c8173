"""What is taken of a model folder that others made: known files, and settings that describe it, none that choose."""

import json
from collections.abc import Iterable
from pathlib import Path

from scripts.lib.hub.client import CONFIG_FILES, TOKENIZER_FILES
from scripts.lib.models import own_code
from scripts.lib.models.folders import GENERATION, INDEX
from scripts.lib.runtime import manifests
from scripts.lib.runtime.untrusted import read_json

SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model")  # as the tokenizers of T5 and XLM-R call theirs
OF_TOKENIZER = (*TOKENIZER_FILES, *SENTENCEPIECE)
# Nothing else is linked: transformers would follow an adapter_config.json to any other folder, for one.
BESIDE_WEIGHTS = (*CONFIG_FILES, INDEX, *OF_TOKENIZER)

TOKENIZER = "tokenizer.json"
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
LARGEST_ID = 2**31 - 1
KEPT = {"_from_model_config": bool, "transformers_version": str, "use_cache": bool}
OFF = ("output_attentions", "output_hidden_states")  # kept where they are false


def link(source: Path, names: Iterable[str], out: Path) -> None:
    """Link those of some files that a folder has to another folder.

    Raises:
        ValueError: one is a link that leads out of the folder.
    """
    for name in names:
        if (source / name).is_file():
            manifests.link_file(own_file(source, name), out / name)


def own_file(folder: Path, name: str) -> Path:
    """The file of a folder behind its name; in the cache of huggingface_hub, names are links to the files beside.

    Raises:
        ValueError: it is a link that leads out of the folder; who sent the folder could take any file by that.
    """
    root, path = folder.resolve(), (folder / name).resolve()
    homes = (root, root.parents[1] / "blobs") if root.parent.name == "snapshots" else (root,)
    if not any(path.is_relative_to(home) for home in homes):
        raise ValueError(f"{folder / name} is a link to {path}, outside of its folder; put the file itself there")
    return path


def clean(folder: Path) -> None:
    """Write the settings of a linked model anew where they hold what is not taken; else they stay as they are.

    Raises:
        ValueError: they are no JSON objects.
    """
    own_code.drop_choices(folder / "config.json")
    if (folder / GENERATION).is_file():
        keep_ids(folder / GENERATION)
    clean_tokenizer(folder)


def clean_tokenizer(folder: Path) -> None:
    """Take out of a tokenizer's settings what transformers would open or write as a file anywhere, and what is drawn.

    Raises:
        ValueError: a file is no JSON object, or larger or deeper than any tokenizer's.
    """
    contents = {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}
    for name, is_kept in (("tokenizer_config.json", opens_nothing), ("special_tokens_map.json", is_of_tokens)):
        settings = contents.get(name, {})
        kept = {key: value for key, value in settings.items() if is_kept(key)}
        if kept != settings:
            (folder / name).unlink()  # it may be a link to what was fetched, or to a user's own
            (folder / name).write_text(json.dumps(kept, ensure_ascii=False))
    content = contents.get(TOKENIZER, {})
    if isinstance(content.get("model"), dict) and content["model"].get("dropout") is not None:
        content["model"]["dropout"] = None  # BPE-dropout (arXiv:1910.13267): other tokens of a text each time
        (folder / TOKENIZER).unlink()
        (folder / TOKENIZER).write_text(json.dumps(content, ensure_ascii=False))


def opens_nothing(key: str) -> bool:
    """Whether transformers opens and writes no file by this key of a tokenizer's settings.

    Chat templates, which nothing here uses, are saved in files of their own by names that they give themselves.
    """
    return not key.endswith(("_file", "_files")) and key not in ("vocab", "merges", "init_inputs", "chat_template")


def is_of_tokens(key: str) -> bool:
    """Whether a key of special_tokens_map.json, each of which transformers takes for a setting, is of tokens."""
    return key.endswith(("_token", "_tokens"))


def keep_ids(path: Path) -> None:
    """Keep nothing but ids of tokens, and what transformers always writes, in a generation_config.json.

    Nothing here generates text, and other settings may be such as transformers reads, but refuses to save with a model.
    """
    content = read_json(path)
    ids = {name: content[name] for name in IDS if name in content and is_ids(name, content[name])}
    kept = ids | {name: content[name] for name, kind in KEPT.items() if isinstance(content.get(name), kind)}
    kept |= {name: False for name in OFF if content.get(name) is False}
    if kept != content:
        path.unlink()  # it may be a link to what was fetched
        path.write_text(json.dumps(kept, indent=1))


def is_ids(name: str, value: object) -> bool:
    """Whether this is a token's id; or, where a text may end at any of several, a list of some."""
    ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
    return value is None or all(type(item) is int and 0 <= item <= LARGEST_ID for item in ids)
