"""The GPTQs of two libraries are one calculation: with the same inputs, scales and order of columns, the same weights.

What tells them apart on a real model (config/recipes/README.md) is their order, where scales come from, and which
inputs they see.
"""

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

from scripts.quantizers.llmcompressor import integer_scheme

BITS, GROUP, DAMPING = 4, 64, 0.05


@pytest.fixture(scope="module")
def layer():
    """A weight [out, in], and inputs [tokens, in] of which a few columns are far larger than the others."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.exp(1.5 * torch.randn(256, generator=generator))
    return torch.randn(32, 256, generator=generator), torch.randn(512, 256, generator=generator) * sizes


def by_gptqmodel(weight, inputs, **settings):
    from gptqmodel.quantization.config import GPTQConfig
    from gptqmodel.quantization.gptq import GPTQ

    linear = torch.nn.Linear(*weight.T.shape, bias=False)
    linear.weight.data = weight.clone()
    common = {"bits": BITS, "group_size": GROUP, "damp_percent": DAMPING, "fallback": None, "offload_to_disk": False}
    task = GPTQ(linear, GPTQConfig(**common, act_group_aware=False, **settings))
    task.quantizer.configure(perchannel=True)
    task.add_batch(inputs[None], None)
    return task.quantize()[0]


def by_llmcompressor(weight, inputs, order):
    settings = integer_scheme(BITS, GROUP, True).weights.model_dump() | {"actorder": order}
    scale = torch.cat([part.abs().amax(dim=1, keepdim=True) for part in weight.split(GROUP, dim=1)], dim=1)
    scale = scale / (2**BITS - 1) * 2
    arguments = (weight[None].clone(), (inputs.T @ inputs)[None], scale[None], torch.zeros_like(scale)[None], None)
    return quantize_weight(*arguments, QuantizationArgs(**settings), percdamp=DAMPING)[0][0]


@pytest.mark.parametrize(("ordered", "order"), [(False, None), (True, "static")])
def test_two_libraries_calculate_the_same(layer, ordered, order):
    """`static_groups` is what takes GPTQModel's scales from the unquantized weights."""
    first = by_gptqmodel(*layer, desc_act=ordered, static_groups=True)
    assert torch.allclose(first, by_llmcompressor(*layer, order), atol=1e-6)


def test_the_order_and_the_origin_of_scales_change_the_weights(layer):
    fixed, moving = (by_gptqmodel(*layer, desc_act=False, static_groups=static) for static in (True, False))
    ordered = by_llmcompressor(*layer, "static")
    assert not torch.allclose(fixed, moving, atol=1e-2)
    assert not torch.allclose(fixed, ordered, atol=1e-2)
