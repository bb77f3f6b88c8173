"""blockwise: running a model block by block gives the numbers of the whole model, and needs no more than a block."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.evaluate_loss import PROBE, Shared, evaluate_loss
from scripts.lib.models import blockwise, heads
from scripts.lib.models.blockwise import Blockwise, NotByBlocks, Resident, mean_losses
from scripts.lib.models.forward import ROWS, window_losses
from scripts.lib.models.loading import load_dense
from scripts.lib.runtime.shortages import Refused
from tests.tools import ROOT

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
SHAPE |= {"vocab_size": 64, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
KINDS = {
    "llama": {"tie_word_embeddings": True},
    "gpt_neox": {},
    "olmo2": {},
    "olmo3": SLIDING,
    "gemma2": {"head_dim": 16, "num_key_value_heads": 1, **SLIDING},
    "qwen3": {"head_dim": 16, "num_key_value_heads": 1},
    "smollm3": {"num_key_value_heads": 1},
    "apertus": {},
    "falcon": {"new_decoder_architecture": True},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "mpt": {"d_model": 32, "n_heads": 2, "n_layers": 3},
}
WINDOWS = np.random.default_rng(0).integers(1, 64, size=(5, 24)).astype(np.uint16)
CAPPED = """
import resource, sys
import numpy as np
from scripts.evaluate_loss import evaluate_loss, load

def data():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) << 10

small, large, out = sys.argv[1:]
windows = np.load(out)
evaluate_loss(small, None, windows, 2, "float32", "cpu")  # imports what there is to import
cap = data() + (140 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
nll, *_ = evaluate_loss(large, None, windows, 2, "float32", "cpu")
np.save(out, nll)
try:
    load(large, "float32", windows, "cpu")
except (MemoryError, RuntimeError) as error:
    print("whole:", error)
"""


def save(folder, kind="llama", dtype=torch.float32, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE | KINDS.get(kind, {}) | more)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(folder, max_shard_size="20MB")
    return folder


@torch.inference_mode()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_numbers_as_the_whole_model(tmp_path, kind, dtype):
    folder = save(tmp_path / "model", kind)
    model, whole = Blockwise(folder, dtype, "cpu"), load_dense(folder, dtype)
    ids = torch.from_numpy(WINDOWS.astype(np.int64))
    if dtype != "float32":
        heads.use_float32(whole, ids[:1, :PROBE])
    states = model.states(WINDOWS, 2)
    for batch in (slice(0, 2), slice(2, 4), slice(4, 5)):
        expected = whole(input_ids=ids[batch], use_cache=False).logits
        assert torch.equal(model.logits(ids[batch], states[batch]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_memory_has_the_same_losses_by_blocks_and_is_as_it_was(tmp_path, kind):
    model = load_dense(save(tmp_path / "model", kind))
    expected, names = window_losses(model, WINDOWS), [name for name, _ in model.named_modules()]
    with Resident(model, "cpu") as resident:
        assert np.array_equal(mean_losses(resident, resident.states(WINDOWS, ROWS), WINDOWS), expected)
    assert [name for name, _ in model.named_modules()] == names
    assert np.array_equal(window_losses(model, WINDOWS), expected)


def test_a_memory_below_the_size_of_the_model_is_enough(tmp_path):
    """200 MB in float32, of files in bfloat16, with 140 MB for weights, hidden states and logits."""
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    small, large = save(tmp_path / "small"), save(tmp_path / "large", dtype=torch.bfloat16, **wide)
    np.save(tmp_path / "nll.npy", WINDOWS)
    command = [sys.executable, "-c", CAPPED, small, large, tmp_path / "nll.npy"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "whole:" in done.stdout, "as a whole it does not fit"
    ids = torch.from_numpy(WINDOWS[:2].astype(np.int64))
    with torch.inference_mode():
        logits = load_dense(large)(input_ids=ids, use_cache=False).logits
    expected = -logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
    assert np.array_equal(np.load(tmp_path / "nll.npy")[:2], expected.numpy())


def test_hidden_states_far_larger_than_the_model_are_refused(tmp_path, monkeypatch):
    """A file of 25 MB whose windows would take 8 GB."""
    wide = {"hidden_size": 2**17, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = Blockwise(save(tmp_path / "wide", head_dim=2, **wide | {"vocab_size": 8}), "float32", "cpu")
    said = r"hidden states of 16384 tokens take 8\.6 GB, 524288 bytes each, and a model of 0\.03 GB"
    with pytest.raises(Refused, match=said):
        model.states(np.ones((16, 1024), np.uint16), 2)
    monkeypatch.setattr(blockwise, "BY_WEIGHTS", 0)
    monkeypatch.setattr(blockwise, "MOST_STATES", WINDOWS.size * 32 * 4)
    small = Blockwise(save(tmp_path / "small"), "float32", "cpu")
    small.states(WINDOWS, 2)
    with pytest.raises(Refused):
        small.states(np.concatenate([WINDOWS, WINDOWS[:1]]), 2)


def test_the_baseline_passes_once_for_all_cells_of_a_checkpoint(tmp_path):
    """The second cell reads its hidden states, and no block: it does not notice that blocks are broken since."""
    baseline, model = save(tmp_path / "baseline"), save(tmp_path / "model", initializer_range=0.03)
    alone = evaluate_loss(model, baseline, WINDOWS, 2, "bfloat16", "cpu")
    shared = Shared(tmp_path / "hidden/text.safetensors", "of this checkpoint")
    evaluate_loss(baseline, None, WINDOWS, 2, "bfloat16", "cpu", shared)
    tensors = load_file(baseline / "model.safetensors")
    broken = {name: tensor * (1 if "layers" not in name else torch.nan) for name, tensor in tensors.items()}
    save_file(broken, baseline / "model.safetensors", {"format": "pt"})
    for found, expected in zip(
        evaluate_loss(model, baseline, WINDOWS, 2, "bfloat16", "cpu", shared), alone, strict=True
    ):
        assert np.array_equal(found, expected)
    assert [path.name for path in (tmp_path / "hidden").iterdir()] == ["text.safetensors"]
    other = shared._replace(key="of another checkpoint")
    assert np.isnan(evaluate_loss(model, baseline, WINDOWS, 2, "bfloat16", "cpu", other)[1]).all(), "made anew"


@pytest.mark.parametrize("change", [lambda kept: kept[:-1], lambda kept: kept[:, :, :-1], torch.Tensor.bfloat16])
def test_shared_states_of_other_windows_or_another_type_are_made_again(tmp_path, caplog, change):
    folder, path = save(tmp_path / "model"), tmp_path / "hidden/text.safetensors"
    shared = Shared(path, "of this checkpoint")
    expected = evaluate_loss(folder, None, WINDOWS, 2, "float32", "cpu", shared)
    with safe_open(path, "pt") as file:
        kept, about = file.get_tensor("states"), file.metadata()
    save_file({"states": change(kept).contiguous()}, path, about)
    for found, right in zip(evaluate_loss(folder, None, WINDOWS, 2, "float32", "cpu", shared), expected, strict=True):
        assert np.array_equal(found, right)
    assert f"{path} holds" in caplog.text
    assert "F32 [5, 24, 32] are asked for, and is made again" in caplog.text
    assert torch.equal(load_file(path)["states"], kept)


def test_files_that_hold_something_else_are_loaded_whole(tmp_path):
    """Names that transformers translates as it loads: no block is found under its own."""
    folder = save(tmp_path / "model")
    expected = evaluate_loss(folder, None, WINDOWS, 2, "float32", "cpu")
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    copy = shutil.copytree(folder, tmp_path / "copy")
    save_file(renamed, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(NotByBlocks, match="its files do not hold model"):
        Blockwise(copy, "float32", "cpu")
    assert np.array_equal(evaluate_loss(copy, None, WINDOWS, 2, "float32", "cpu")[0], expected[0])


@pytest.mark.parametrize("torn", [b"", b"half of it", None])
def test_hidden_states_that_cannot_be_read_are_made_again(tmp_path, torn):
    """As a crash of the machine leaves them; None: without what they are of."""
    model, path = save(tmp_path / "model"), tmp_path / "hidden/text.safetensors"
    path.parent.mkdir()
    save_file({"other": torch.zeros(1)}, path) if torn is None else path.write_bytes(torn)
    shared = Shared(path, "of this checkpoint")
    evaluate_loss(model, None, WINDOWS, 2, "float32", "cpu", shared)
    assert load_file(path)["states"].shape[:2] == WINDOWS.shape
