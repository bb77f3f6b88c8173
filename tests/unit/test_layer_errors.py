"""layer_errors: statistics of a layer are what their formulas say, and looking at models leaves nothing in them."""

import gc
import weakref

import pytest
import torch
from torch import nn

from scripts.lib.checks.layer_errors import LayerErrors, describe_layer
from scripts.lib.models.grids import Grid
from scripts.quantizers.rtn import round_to_nearest

WEIGHT = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
WEIGHT[3, 5] = 9
ROUNDED = round_to_nearest(WEIGHT, 3, 16, True)


def test_statistics_of_weights_are_what_their_formulas_say():
    row = describe_layer("layer", WEIGHT.clone(), ROUNDED, Grid(3, 16, True), 3.5, None)
    z = (WEIGHT.double() - WEIGHT.double().mean()) / WEIGHT.double().std(correction=0)
    largest = ROUNDED.reshape(-1, 16).abs().amax(dim=1)
    expected = {
        "outlier_share": 1 / WEIGHT.numel(),
        "kurtosis": z.pow(4).mean(),
        "weight_error": (ROUNDED - WEIGHT).norm() / WEIGHT.norm(),
        "absmax_mean": largest.mean(),
        "absmax_max": largest.max(),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(float(value), rel=1e-5), name


def test_a_description_leaves_weights_as_they_are():
    weight, rounded = WEIGHT.clone(), ROUNDED.clone()
    describe_layer("layer", weight, rounded, Grid(3, 16, True), 3.5, None)
    assert torch.equal(weight, WEIGHT)
    assert torch.equal(rounded, ROUNDED)


def test_output_errors_are_gathered_only_inside_the_block():
    source, model = (nn.Sequential(nn.Linear(64, 32)).requires_grad_(False) for _ in range(2))
    inputs = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    with LayerErrors() as errors:
        errors.watch("0", source[0], model[0])
        source(inputs)
    found = errors.of("0")["output_error"]
    moved = inputs @ (model[0].weight - source[0].weight).T
    assert found == pytest.approx(float(moved.norm() / (inputs @ source[0].weight.T).norm()), rel=1e-5)
    source(inputs * 100)
    assert errors.of("0")["output_error"] == found
    layer = weakref.ref(model[0])
    del model
    gc.collect()
    assert layer() is None
