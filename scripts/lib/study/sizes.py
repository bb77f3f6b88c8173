"""Sizes of models, of checkpoints and of quantized models: from locks and folders where there are any, or estimated."""

import json
from dataclasses import dataclass
from pathlib import Path

from scripts.lib.models.folders import count_parameters
from scripts.lib.study.libraries import algorithm, libraries

LARGE_VOCABULARY = 130_000
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes a weight
SCALE = 32  # bits of a group's scale and zero point together
WEIGHTS_A_WIDTH = 400  # weights over the squared width, where no width is known: 402 of Llama 7B, 405 of SmolLM2 135M


@dataclass(frozen=True)
class Model:
    """Sizes of a model: weights, width, decoder blocks, vocabulary; whether embedding and head are known to be one."""

    parameters: int
    width: int
    blocks: int
    vocabulary: int
    tied: bool = False

    @property
    def likely_width(self) -> int:
        """The width, or what models of so many weights mostly have where it is not known."""
        return self.width or round((self.parameters / WEIGHTS_A_WIDTH) ** 0.5)


def size_of_model(shape: dict, tokenizer: dict) -> Model:
    """Sizes of a model of `architecture`: 4 w^2 weights (less with grouped keys) in attention, 3 or 2 w i in an MLP.

    Args:
        shape: keys of transformers' configs: architecture, hidden_size, intermediate_size, num_hidden_layers, ...
        tokenizer: a tokenizer's file: its vocabulary, or the model folder it comes from.
    """
    vocabulary = tokenizer.get("vocabulary") or _vocabulary(Path(tokenizer["path"]))
    width, blocks = shape["hidden_size"], shape["num_hidden_layers"]
    heads = shape["num_attention_heads"]
    keys = width * shape.get("num_key_value_heads", heads) // heads
    matrices = 2 if shape["architecture"] in ("gpt_neox", "apertus") else 3
    block = 2 * width * (width + keys) + matrices * width * shape["intermediate_size"]
    tied = shape.get("tie_word_embeddings", False)
    return Model(blocks * block + (1 if tied else 2) * vocabulary * width, width, blocks, vocabulary, tied)


def size_of_published(model: dict) -> Model:
    """Sizes of a published model, as far as its trajectory's file tells them."""
    width, blocks = model.get("hidden_size", 0), model.get("num_hidden_layers", 0)
    vocabulary, tied = model.get("vocab_size", LARGE_VOCABULARY), model.get("tie_word_embeddings", False)
    return Model(model["parameters"], width, blocks, vocabulary, tied)


def size_of_folder(folder: Path | str) -> Model:
    """Sizes of a model on disk, from the headers of its weights and its config.json."""
    config = json.loads((Path(folder) / "config.json").read_text())
    return Model(
        count_parameters(folder),
        config.get("hidden_size", 0),
        config.get("num_hidden_layers", 0),
        config.get("vocab_size", 0),
    )


def _vocabulary(folder: Path) -> int:
    """Token ids of a model folder's tokenizer, or what is assumed before it exists."""
    config = folder / "config.json"
    return json.loads(config.read_text())["vocab_size"] if config.is_file() else LARGE_VOCABULARY


def quantized_bytes(model: Model, recipe: dict) -> int:
    """Bytes of one quantized model, estimated: dense, or packed but for embedding and head, which stay in float32."""
    if libraries()[recipe["library"]].stored == "dense":
        return 4 * model.parameters
    bits = recipe["bits"] if "bits" in recipe else algorithm(recipe)["bits"]
    group = recipe["group_size"] if "group_size" in recipe else algorithm(recipe)["group"]
    bits += SCALE / group if group > 0 else 0
    tables = min(_tables(model), model.parameters)
    return round(4 * tables + bits / 8 * (model.parameters - tables))


def _tables(model: Model) -> int:
    """Weights of embedding and head, as far as they are known."""
    return (1 if model.tied else 2) * model.vocabulary * model.likely_width
