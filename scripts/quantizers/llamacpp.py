"""llamacpp: K-quants by llama.cpp's own `llama-quantize` (`make llama-quantize` builds it). Saved dense."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize
from torch import nn

from scripts.lib.models.grids import Grid
from scripts.lib.models.loading import block_linears, load_dense
from scripts.lib.runtime.shortages import Refused
from scripts.quantizers import Quantized, save_dense
from scripts.quantizers.tools import require, run_program

ABOUT = {
    "uses": ["gguf"],
    "stored": "dense",
    "built": {"file": ".llama.cpp/llama-quantize", "target": "llama-quantize"},
    "algorithms": {
        "q2_k": {
            "title": "K-quants",
            "description": "llama.cpp's Q2_K, in super-blocks of 256 weights.",
            "divides": 256,
        },
        "q3_k_m": {
            "title": "K-quants",
            "description": "llama.cpp's Q3_K_M, in super-blocks of 256 weights.",
            "divides": 256,
        },
        "q4_k_m": {
            "title": "K-quants",
            "description": "llama.cpp's Q4_K_M, in super-blocks of 256 weights.",
            "divides": 256,
        },
        "q6_k": {
            "title": "K-quants",
            "description": "llama.cpp's Q6_K, in super-blocks of 256 weights.",
            "divides": 256,
        },
    },
}

NAMES = {  # what ends a layer's name -> llama.cpp's name, by which it chooses the bits of mixed types
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "dense_h_to_4h": "ffn_up",
    "dense_4h_to_h": "ffn_down",
}
GROUPS = {"q4_k_m": 32}  # of Q4_K and Q5_K; those of Q2_K, Q3_K and Q6_K are 16
BITS = {"Q2_K": 2, "Q3_K": 3, "Q4_K": 4, "Q5_K": 5, "Q6_K": 6}


def quantize(model_folder: Path, recipe: dict, calibration: np.ndarray | None, device: str) -> Quantized:
    """Quantize the linear layers of all decoder blocks to a mix of K-quants, without an importance matrix.

    The file goes through llama.cpp as tensors alone, under Llama's names whatever the architecture, and comes back
    dequantized.

    Raises:
        Refused: llama-quantize is not built, or a layer has no name in llama.cpp.
        RuntimeError: llama-quantize fails.
    """
    program = require("llamacpp")
    model = load_dense(model_folder, "float32")
    layers = block_linears(model)
    names = {layer_name(name): name for name in layers}
    kinds, nominal = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        before, after = Path(scratch) / "before.gguf", Path(scratch) / "after.gguf"
        write_file(before, model, {name: layers[own].weight.data for name, own in names.items()})
        run_program([program, before, after, recipe["algorithm"].upper(), "1"], "llama-quantize")
        for tensor in GGUFReader(after).tensors:
            if tensor.name in names:
                layer = layers[names[tensor.name]]
                weight = dequantize(tensor.data, tensor.tensor_type).reshape(layer.weight.shape)
                layer.weight.data = torch.from_numpy(weight.astype(np.float32))
                kinds[names[tensor.name]] = BITS[tensor.tensor_type.name]
                nominal[names[tensor.name]] = 8 * int(tensor.n_bytes) / weight.size
    sizes = [layers[name].weight.numel() for name in kinds]
    bits = float(np.average(list(kinds.values()), weights=sizes))
    mixture = kinds if len(set(kinds.values())) > 1 else {}
    grid = Grid(bits, GROUPS.get(recipe["algorithm"], 16), False, layer_bits=mixture)
    return save_dense(model, layers, grid, nominal)


def layer_name(name: str) -> str:
    """llama.cpp's name of a layer's weight, e.g. `blk.0.attn_q.weight`.

    Raises:
        Refused: it has none here.
    """
    block = next(part for part in name.split(".") if part.isdigit())
    for ending, found in NAMES.items():
        if name.endswith(f".{ending}"):
            return f"blk.{block}.{found}.weight"
    raise Refused(f"{name} has no name in llama.cpp; scripts/quantizers/llamacpp.py has: {', '.join(NAMES)}")


def write_file(path: Path, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Write weights by llama.cpp's names as a GGUF file that llama-quantize takes; not one that could be run."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", config.num_attention_heads))
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_tensor("token_embd.weight", model.get_input_embeddings().weight.data.float().numpy())
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
