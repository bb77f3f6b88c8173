"""The head in float32: logits of a model in half precision against float64 from the same hidden states."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.evaluate_loss import evaluate_loss
from scripts.lib.models import heads

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
NORMS = {"llama": "model.norm", "gpt_neox": "gpt_neox.final_layer_norm", "opt": "model.decoder.final_layer_norm"}
LOUD = 200  # times the weights of the head: logits of 20 and more


def loud_model(kind: str, tied: bool = False):
    """A random model in bfloat16 with large logits."""
    torch.manual_seed(0)
    more = {"ffn_dim": 64, "word_embed_proj_dim": 32} if kind == "opt" else {}
    config = AutoConfig.for_model(kind, vocab_size=64, max_position_embeddings=64, **SHAPE, **more)
    config.tie_word_embeddings = tied
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(LOUD)
    return model


def exact_logits(model, norm: str, ids: torch.Tensor) -> torch.Tensor:
    """Final norm and head in float64, of the hidden states that the model has."""
    seen = []
    hook = model.get_submodule(norm).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(input_ids=ids, use_cache=False)
    hook.remove()
    layers = (copy.deepcopy(layer).double() for layer in (model.get_submodule(norm), model.get_output_embeddings()))
    states = seen[0].double()
    for layer in layers:
        states = layer(states).double()
    return states


@pytest.mark.parametrize(("kind", "tied"), [("llama", False), ("llama", True), ("gpt_neox", False), ("opt", True)])
def test_norm_and_head_are_computed_in_float32(kind, tied):
    model, ids = loud_model(kind, tied), torch.arange(1, 41).view(2, 20)
    with torch.inference_mode():
        expected = exact_logits(model, NORMS[kind], ids)
        before = model(input_ids=ids, use_cache=False).logits
        heads.use_float32(model, ids[:1, :8])
        after = model(input_ids=ids, use_cache=False).logits
    assert expected.abs().max() > 16
    assert after.dtype == torch.float32
    assert torch.allclose(after.double(), expected, rtol=1e-5, atol=1e-4)
    assert (before.double() - expected).abs().max() > 0.02
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert not model.get_submodule(NORMS[kind])._forward_hooks


def test_a_model_whose_head_is_unknown_is_an_error():
    model = loud_model("llama")
    model.get_output_embeddings = lambda: None
    with pytest.raises(ValueError, match="computed in float32; evaluate this model"):
        heads.use_float32(model, torch.ones(1, 4, dtype=torch.int64))


def test_a_divergence_in_half_precision_is_that_of_the_float32_heads(tmp_path):
    """Both sides: two models that differ in their last block alone."""
    models, windows = [loud_model("llama"), loud_model("llama")], np.arange(1, 61).reshape(3, 20) % 64
    with torch.no_grad():
        models[1].model.layers[-1].mlp.down_proj.weight.mul_(1.02)
    for name, model in zip(("baseline", "changed"), models, strict=True):
        model.save_pretrained(tmp_path / name)
    nll, kl, _ = evaluate_loss(tmp_path / "changed", tmp_path / "baseline", windows, 3, "bfloat16", "cpu")
    ids = torch.from_numpy(windows)
    with torch.inference_mode():
        reference, logits = (exact_logits(model, NORMS["llama"], ids).log_softmax(-1) for model in models)
    expected = (reference.exp() * (reference - logits)).sum(-1)[:, :-1].numpy()
    losses = -logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1).numpy()
    assert nll == pytest.approx(losses, rel=1e-4, abs=1e-4)
    assert kl == pytest.approx(expected, rel=1e-3, abs=2e-5)
    assert expected.mean() > 0
