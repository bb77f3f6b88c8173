"""Which methods suit which architectures: what transforms need to know of a block, and all reasons to refuse a pair.

What is not refused here is tried, and is in a figure only if it passes the gate (scripts/lib/checks/gate.py). The
pairs that passed in the study `methods` are in config/recipes/README.md.
"""

from dataclasses import dataclass
from math import log2

from scripts.lib.study.group_sizes import width_refusal
from scripts.lib.study.libraries import libraries

ROTATIONS_NEED = "rotations need an RMSNorm directly before the linear layers, to take up its weights; "


@dataclass(frozen=True)
class Block:
    """A decoder block: where a scale can move from the inputs of linear layers into what comes before them.

    norms: norm -> the linear layers that read its output.
    linears: linear layer -> the one that reads its output, with nothing but products by other terms between them.
    rotation: why the block cannot be rotated, or None.
    """

    norms: dict[str, tuple[str, ...]]
    linears: dict[str, str]
    rotation: str | None = None


ATTENTION, MLP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
LLAMA = Block(
    {"input_layernorm": ATTENTION, "post_attention_layernorm": MLP}, {"v_proj": "o_proj", "up_proj": "down_proj"}
)
OLMO2 = Block({}, LLAMA.linears, ROTATIONS_NEED + "OLMo-2 has its norms after them")
BLOCKS = {  # transformers model type -> block
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "smollm3": LLAMA,
    "olmo": Block({}, LLAMA.linears, ROTATIONS_NEED + "OLMo's have no weights and subtract the mean"),
    "olmo2": OLMO2,
    "olmo3": OLMO2,
    "apertus": Block({"attention_layernorm": ATTENTION, "feedforward_layernorm": ("up_proj",)}, {"v_proj": "o_proj"}),
    "gpt_neox": Block(
        {"input_layernorm": ("query_key_value",), "post_attention_layernorm": ("dense_h_to_4h",)},
        {},
        ROTATIONS_NEED + "GPT-NeoX's subtract the mean and have biases",
    ),
}


def refusal(recipe: dict, config: dict, widths: dict[str, int], own: bool = False) -> str | None:
    """Why a method cannot be applied to a model, or None.

    Args:
        recipe: as in its file.
        config: the model's config, with transformers' values for what its file leaves out.
        widths: input columns of each layer that is to be quantized.
        own: whether the model runs by code of its repository.
    """
    reason = width_refusal(recipe, widths)
    if reason:
        return reason
    reason = libraries()[recipe["library"]].own_code
    if own and reason:
        return reason
    transform = recipe.get("transform")
    if own and transform:
        return f"{transform['algorithm']} does not know the blocks of models that run by code of their repository"
    return _transform_refusal(transform["algorithm"], config) if transform else None


def _transform_refusal(name: str, config: dict) -> str | None:
    block = BLOCKS.get(config["model_type"])
    if block is None:
        return f"{name} does not know the blocks of `{config['model_type']}`, only of: {', '.join(BLOCKS)}"
    if name == "smoothquant" and not block.norms:
        return f"smoothquant moves scales into the norms before linear layers; `{config['model_type']}` has none"
    if name == "spinquant":
        head = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        for what, size in (("hidden_size", config["hidden_size"]), ("head_dim", head)):
            if log2(size) % 1:
                return f"spinquant's Hadamard rotations need powers of two; {what} is {size}"
        return block.rotation
    return None
