"""What is taken of a model folder that others made: files by their known names, and settings that only describe."""

import json
from pathlib import Path

from scripts.lib.hub.client import CONFIG_FILES, TOKENIZER_FILES
from scripts.lib.models import own_code
from scripts.lib.models.folders import GENERATION, INDEX, weight_files
from scripts.lib.runtime import manifests
from scripts.lib.runtime.untrusted import read_json

# Nothing else is linked: transformers would follow an adapter_config.json to any other folder, for one.
SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model")  # as the tokenizers of T5 and XLM-R call theirs
BESIDE_WEIGHTS = (*CONFIG_FILES, INDEX, *TOKENIZER_FILES, *SENTENCEPIECE)
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
KEPT = ("_from_model_config", "transformers_version", "output_attentions", "output_hidden_states", "use_cache")


def link_model(source: Path, out: Path) -> None:
    """Link the files of a whole model folder, by their known names, to another folder.

    Raises:
        ValueError: the weight files are not those that its index names.
    """
    known = [Path(source) / name for name in BESIDE_WEIGHTS]
    for path in [*(path for path in known if path.is_file()), *weight_files(source)]:
        manifests.link_file(path, out / path.name)


def clean(folder: Path) -> None:
    """Write the settings of a linked model anew where they hold what is not taken; else they stay as they are.

    Raises:
        ValueError: they are no JSON objects.
    """
    own_code.drop_choices(folder / "config.json")
    if (folder / GENERATION).is_file():
        keep_ids(folder / GENERATION)


def keep_ids(path: Path) -> None:
    """Keep nothing but ids of tokens, and what transformers always writes, in a generation_config.json.

    Nothing here generates text, and other settings may be such as transformers reads, but refuses to save with a model.
    """
    content = read_json(path)
    ids = {name: content[name] for name in IDS if name in content and is_ids(content[name])}
    kept = ids | {name: content[name] for name in KEPT if isinstance(content.get(name), bool | str)}
    if kept != content:
        path.unlink()  # it may be a link to what was fetched
        path.write_text(json.dumps(kept, indent=1))


def is_ids(value: object) -> bool:
    """Whether this is a token's id, or some."""
    return value is None or all(type(item) is int for item in (value if isinstance(value, list) else [value]))
