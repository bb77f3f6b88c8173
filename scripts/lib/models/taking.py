"""What is taken of the settings of a model that others made: what describes it, and nothing that chooses."""

import json
from pathlib import Path

from scripts.lib.models import own_code
from scripts.lib.models.folders import GENERATION
from scripts.lib.runtime.untrusted import read_json

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
KEPT = ("_from_model_config", "transformers_version", "use_cache")
OFF = ("output_attentions", "output_hidden_states")  # kept where they are false


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
    kept |= {name: False for name in OFF if content.get(name) is False}
    if kept != content:
        path.unlink()  # it may be a link to what was fetched
        path.write_text(json.dumps(kept, indent=1))


def is_ids(value: object) -> bool:
    """Whether this is a token's id, or some."""
    ids = value if isinstance(value, list) else [value]
    return value is None or all(type(item) is int and item >= 0 for item in ids)
