"""Whether a model folder will load, judged as transformers judges it when it loads, but without reading its weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from scripts.lib.models import lean  # noqa: F401 - before transformers' models  # isort: skip

import torch
from tokenizers import Tokenizer
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import GenerationConfig
from transformers.modeling_utils import load_state_dict
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging

from scripts.lib.models import own_code, packed
from scripts.lib.models.folders import INDEX, validate_model_folder, weight_files
from scripts.lib.models.loading import load_empty
from scripts.lib.runtime.untrusted import read_json

GENERATION = "generation_config.json"
MOST_COUNTED = 10_000  # decoder blocks, labels: transformers makes lists of them before it makes a model
NAMES_SHOWN, LONGEST_CAUSE = 3, 200  # tensors, characters


def require_loadable(folder: Path | str) -> None:
    """Check that a model folder is whole, and that its weights are those of the model that its config.json makes.

    Nothing is said of the weights of models that own code makes, for it is not run for this, or of quantized ones.

    Raises:
        ValueError: transformers cannot make the model, or weights are missing, unexpected or of the wrong shape; the
            message names folder and tensors.
    """
    folder = Path(folder)
    config = validate_model_folder(folder)
    if (folder / GENERATION).is_file():
        read_json(folder / GENERATION)
    if "transformers_weights" in config:  # a file to load instead of those that were checked
        raise ValueError(f"{folder}/config.json: `transformers_weights` chooses other weight files; take it out")
    if (folder / INDEX).is_file() and not isinstance(read_json(folder / INDEX).get("metadata"), dict):
        raise ValueError(f"{folder / INDEX} has no `metadata`, without which transformers does not load it")
    if too_many := [f"`{key}` is {value}" for key, value in _counts(config) if value > MOST_COUNTED]:
        raise ValueError(f"{folder}/config.json asks for too much: {', '.join(too_many)}")
    if own_code.pinned(folder):
        return
    if quantization := config.get("quantization_config"):
        packed.format_of(quantization)
        return
    if problems := _problems(folder):
        raise ValueError(f"{folder} does not load: {problems}")


def _problems(folder: Path) -> str:
    """What loading would complain of, for people; nothing if it would not."""
    tensors = {}
    for file in weight_files(folder):
        tensors |= load_state_dict(file, map_location="meta")
    with _silently():
        try:
            with _at_most(4 * len(tensors) + 100):
                empty = load_empty(folder)
            if (folder / GENERATION).is_file():
                GenerationConfig.from_pretrained(folder)
            settings = {"device_map": {"": "meta"}, "dtype": torch.float32, "ignore_mismatched_sizes": True}
            _, info = type(empty).from_pretrained(
                None, config=empty.config, state_dict=tensors, output_loading_info=True, **settings
            )
        except Exception as error:  # whatever a config that nobody checked makes transformers raise
            first = next(iter(str(error).split("\n")))[:LONGEST_CAUSE]
            return f"transformers makes no model of its config.json ({type(error).__name__}: {first})"
    tokens, rows = _tokens(folder), empty.get_input_embeddings().weight.shape[0]
    found = [f"{kind.removesuffix('_keys')}: {_some(names)}" for kind, names in info.items() if names]
    return "; ".join(
        found + [f"its tokenizer has ids up to {tokens - 1}, and the model {rows} tokens"] * (tokens > rows)
    )


def _tokens(folder: Path) -> int:
    """One more than the largest id that a tokenizer gives plain text; 0 if its file cannot tell.

    Added tokens are not counted: Gemma 3 has one for images that its text models have no row for.
    """
    path = folder / "tokenizer.json"
    vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=False) if path.is_file() else {}
    return max(vocabulary.values(), default=-1) + 1


def _some(names: set[str] | set[tuple]) -> str:
    """The first few names, and how many more there are; a mismatched tensor comes with both of its shapes."""
    shown = [
        name if isinstance(name, str) else "{} is {}, not {}".format(name[0], *map(list, name[1:])) for name in names
    ]
    more = f" and {len(shown) - NAMES_SHOWN} more" if len(shown) > NAMES_SHOWN else ""
    return ", ".join(sorted(shown)[:NAMES_SHOWN]) + more


def _counts(config: dict) -> Iterator[tuple[str, int]]:
    """The numbers of a config, and of those inside it, of which transformers makes lists: of blocks and of labels."""
    kind = config.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    blocks = CONFIG_MAPPING[kind].attribute_map.get("num_hidden_layers") if known else None
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif key in ("num_hidden_layers", "num_labels", blocks) and isinstance(value, int):
            yield key, value


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Stop a model from being made as soon as it has more parameters than so many."""
    seen = count(1)

    def register(module, name, parameter) -> None:
        if next(seen) > most:
            raise ValueError(f"the model has more than {most} tensors, far more than the files")

    handle = register_module_parameter_registration_hook(register)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _silently() -> Iterator[None]:
    """Without transformers' own report of a loading, and its progress bar."""
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
