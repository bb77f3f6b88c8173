"""packed: codes come back from every packing, and each format's reader agrees with the library that wrote it."""

import pytest
import torch
from bitsandbytes.functional import quantize_4bit

from scripts.lib.models.packed import READERS, WORD, dequantize_4bit, format_of, unpack


def pack(codes, bits):
    """GPTQ's stream of bits, lowest first, written down naively: words [n * bits / 32, columns]."""
    stream = ((codes.unsqueeze(1) >> torch.arange(bits).view(1, -1, 1)) & 1).reshape(-1, WORD, codes.shape[1])
    words = (stream.long() << torch.arange(WORD).view(1, -1, 1)).sum(dim=1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_come_back(bits):
    codes = torch.randint(0, 2**bits, (96, 5), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(unpack(pack(codes, bits), bits), codes)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_points_stored_one_lower_come_back_whole(bits):
    """GPTQModel subtracts one from whole words, so that a zero point of 0 borrows from its neighbour."""
    zeros = torch.tensor([0, 1, 2**bits - 1, 0] * 24).unsqueeze(1)
    ones = pack(torch.ones_like(zeros), bits).long()
    stored = (pack(zeros, bits).long() - ones + 2**31) % 2**32 - 2**31
    assert torch.equal(unpack(stored.int(), bits, lower=1), zeros)


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_bit_planes_come_back(bits):
    from gptqmodel.utils.planar_packing import planar_pack_rows

    codes = torch.randint(0, 2**bits, (64, 5), generator=torch.Generator().manual_seed(bits))
    assert torch.equal(unpack(planar_pack_rows(codes, bits), bits), codes)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("in_order", [True, False])
def test_a_layer_of_gptq_is_what_its_formula_says(bits, in_order):
    """w[i, o] = scale[g(i), o] * (code[i, o] - zero[g(i), o]), columns in the order of their groups or not."""
    draw = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (64, 32), generator=draw)
    zeros = torch.randint(1, 2**bits, (4, 32), generator=draw)
    groups = torch.arange(64) // 16
    groups = groups if in_order else groups[torch.randperm(64, generator=draw)]
    scales = torch.rand(4, 32, generator=draw).half()
    stored = {"qweight": pack(codes, bits), "qzeros": pack((zeros - 1).T, bits).T, "scales": scales}
    found = READERS["gptq"](stored | {"g_idx": groups.int()}, {"bits": bits})
    assert torch.equal(found, (scales.float()[groups] * (codes - zeros[groups])).T)


@pytest.mark.parametrize("shape", [(64, 128), (128, 96), (96, 96), (32, 64)])
@pytest.mark.parametrize("double", [False, True])
def test_nf4_dequantizes_right_at_every_width(shape, double):
    """bitsandbytes' own CPU kernel is wrong where 64 does not divide the width; ours must not be."""
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    data, state = quantize_4bit(weight.clone(), quant_type="nf4", blocksize=64, compress_statistics=double)
    blocks = weight.reshape(-1, 64)
    scale = blocks.abs().amax(dim=1, keepdim=True)
    expected = state.code[((blocks / scale).unsqueeze(-1) - state.code).abs().argmin(-1)] * scale
    found = dequantize_4bit(data, state).reshape(-1, 64)
    assert torch.allclose(found, expected, atol=0.02 if double else 1e-6)


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        ({"quant_method": "awq"}, "awq"),
        ({"quant_method": "gguf"}, "gguf"),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, "gptq_v2"),
    ],
)
def test_a_format_that_is_not_read_is_named(quantization, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        format_of(quantization)
