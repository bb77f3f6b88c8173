"""transforms: what is done to a model before rounding, without a change of its function; by llm-compressor.

AWQ (arXiv:2306.00978) and SmoothQuant (arXiv:2211.10438) move scales between layers; SpinQuant's R1 and R2
(arXiv:2405.16406) rotate the residual stream and the values of attention, here by Hadamard matrices.
"""

from pathlib import Path

import numpy as np
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform import AWQModifier, SmoothQuantModifier, SpinQuantModifier
from llmcompressor.modifiers.transform.awq import AWQMapping
from llmcompressor.modifiers.transform.spinquant.norm_mappings import NORM_MAPPING_REGISTRY, NormMapping
from torch import nn

from scripts.lib.models.loading import load_dense, load_empty, load_tokenizer
from scripts.quantizers.llmcompressor import integer_scheme, of_blocks, run
from scripts.quantizers.support import BLOCKS, Block

ABOUT = {
    "package": "llmcompressor",
    "uses": ["compressed-tensors"],
    "stored": "dense",
    "algorithms": {
        "awq": {
            "title": "AWQ",
            "description": "Activation-aware scales, arXiv:2306.00978.",
            "settings": {
                "grid_points": {
                    "type": "integer",
                    "minimum": 2,
                    "description": "Scales that are tried for each group of layers.",
                }
            },
            "passes": 35,  # a grid of scales, each tried on every layer: 33
        },
        "smoothquant": {
            "title": "SmoothQuant",
            "description": "Scales moved from weights' inputs into norms, arXiv:2211.10438.",
            "settings": {
                "strength": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": 1,
                    "description": "Its alpha: how much of the inputs' range moves.",
                }
            },
            "passes": 3,
        },
        "spinquant": {
            "title": "SpinQuant",
            "description": "Hadamard rotations, arXiv:2405.16406, not learned.",
            "settings": {
                "rotations": {
                    "type": "array",
                    "minItems": 1,
                    "uniqueItems": True,
                    "items": {"enum": ["R1", "R2"]},
                    "description": "R1: residual stream; R2: values of attention.",
                }
            },
            "passes": 1,
        },
    },
}


def transform(model_folder: Path, recipe: dict, calibration: np.ndarray, out: Path, device: str) -> None:
    """Write a model folder of the same function whose weights are easier to round.

    Args:
        model_folder: the unquantized checkpoint.
        recipe: a method with a `transform`; AWQ looks for the scales that suit the method's grid.
        calibration: token windows [samples, window].
        out: the transformed model, dense, in float32.
    """
    model = load_dense(model_folder, "float32").to(device)
    names = list(model.state_dict())
    settings, block = recipe["transform"], BLOCKS[model.config.model_type]
    modifiers = {"awq": _awq, "smoothquant": _smoothquant, "spinquant": _spinquant}[settings["algorithm"]]
    run(model, modifiers(settings, recipe, block, model), calibration)
    state = model.state_dict()
    plain = load_empty(model_folder)  # without what llm-compressor hung on the model
    plain.load_state_dict({name: state[name].cpu() for name in names}, assign=True)
    plain.save_pretrained(out)
    load_tokenizer(model_folder).save_pretrained(out)


def _awq(settings: dict, recipe: dict, block: Block, model: nn.Module) -> list:
    pairs = [(source, list(readers)) for source, readers in block.norms.items()]
    pairs += [(source, [reader]) for source, reader in block.linears.items()]
    mappings = [AWQMapping(_ending(source), [_ending(reader) for reader in readers]) for source, readers in pairs]
    scheme = integer_scheme(recipe["bits"], recipe["group_size"], recipe["symmetric"])
    awq = AWQModifier(mappings=mappings, n_grid=settings["grid_points"])
    return [awq, QuantizationModifier(**of_blocks(model, scheme))]


def _smoothquant(settings: dict, recipe: dict, block: Block, model: nn.Module) -> list:
    mappings = [[[_ending(reader) for reader in readers], _ending(norm)] for norm, readers in block.norms.items()]
    return [SmoothQuantModifier(mappings=mappings, smoothing_strength=settings["strength"])]


def _spinquant(settings: dict, recipe: dict, block: Block, model: nn.Module) -> list:
    norms = [NormMapping(norm=_ending(norm), linears=list(map(_ending, rs))) for norm, rs in block.norms.items()]
    last = NormMapping(norm="model.norm", linears=["lm_head"])
    NORM_MAPPING_REGISTRY[type(model).__name__] = [*norms, last]  # it takes none as an argument
    return [Rotation(rotations=settings["rotations"], transform_type="hadamard")]


class Rotation(SpinQuantModifier):
    """SpinQuant without its centring of the embeddings, which changes the function of models with RMSNorm.

    (In llm-compressor 0.14.0.1 centring is unconditional; logits then differ by more than a standard deviation.)
    """

    def _center_embeddings(self, model: nn.Module) -> None:
        """The norms of rotated models do not subtract the mean, so neither may this."""


def _ending(name: str) -> str:
    return rf"re:.*\.{name}$"
