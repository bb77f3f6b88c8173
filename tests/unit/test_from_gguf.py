"""from_gguf: the folder holds the file's weights, dense, and a tokenizer that ends texts as the model does."""

import json

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from transformers import AutoTokenizer

from scripts.commands.from_gguf import unpack
from scripts.lib.models.loading import load_dense

WIDTH, MIDDLE, KIND = 64, 128, GGMLQuantizationType.Q4_1
TOKENS = ["<|end|>", "<|start|>", *(chr(code) for code in range(ord("!"), ord("~") + 1)), "Ġ", "tw", "or"]


def test_a_file_becomes_a_model_folder(tmp_path):
    rng = np.random.default_rng(1)
    packed = {"token_embd.weight": (len(TOKENS), WIDTH)}
    packed |= {f"blk.0.attn_{name}.weight": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")}
    packed |= {f"blk.0.ffn_{name}.weight": (MIDDLE, WIDTH) for name in ("gate", "up")}
    packed |= {"blk.0.ffn_down.weight": (WIDTH, MIDDLE)}
    packed = {name: quantize(rng.normal(size=shape).astype(np.float32), KIND) for name, shape in packed.items()}
    write(tmp_path / "small.gguf", packed)
    unpack(tmp_path / "small.gguf", tmp_path / "model")

    config = json.loads((tmp_path / "model/config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == "float32"
    model = load_dense(tmp_path / "model")
    down = model.model.layers[0].mlp.down_proj.weight
    assert torch.equal(down, torch.from_numpy(dequantize(packed["blk.0.ffn_down.weight"], KIND)))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.decode(tokenizer("two words").input_ids) == "two words"


def write(path, packed):
    """A file of a Llama of one block and of a tokenizer of bytes."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(WIDTH // 2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, *[1] * (len(TOKENS) - 2)])
    writer.add_token_merges(["t w", "o r"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    for name, data in packed.items():
        writer.add_tensor(name, data, raw_dtype=KIND)
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
