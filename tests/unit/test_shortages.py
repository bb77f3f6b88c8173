"""A GPU's memory that is full: smaller batches, then a refused cell, and a failed job only where others hold it."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from scripts.lib.models.forward import halving, window_losses
from scripts.lib.runtime import shortages
from scripts.lib.runtime.shortages import Refused, is_shortage, refusing

FULL = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1 GiB is free"
WAYS = [torch.OutOfMemoryError(FULL), RuntimeError("Triton Error [CUDA]: out of memory")]


@pytest.mark.parametrize("error", WAYS)
def test_a_model_too_large_for_the_gpu_is_refused_and_says_its_size(error):
    words = "gptqmodel needs more memory than the GPU has on this model: "
    with pytest.raises(Refused, match=words) as refused, refusing("gptqmodel"):
        raise error
    assert str(error) in str(refused.value)


@pytest.mark.parametrize(("others", "fails"), [(1, False), (40, True)])
@pytest.mark.parametrize("error", WAYS)
def test_a_gpu_that_others_fill_fails_the_job(monkeypatch, others, fails, error):
    """Of 80 GiB this process holds 30; its own context, and that of the process that checks, count as others'."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: ((50 - others) * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 30 * 2**30)
    assert shortages.held_by_others() == others * 2**30
    assert is_shortage(error) == fails


def test_batches_are_halved_until_they_fit():
    seen = []

    def measure(batch):
        seen.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError(FULL)
        return batch.sum(dim=1)

    batch = torch.arange(14).view(7, 2)
    assert torch.cat(halving(measure, batch)).equal(batch.sum(dim=1))
    assert seen == [7, 4, 2, 2, 3, 2, 1]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(FULL), ValueError("out of memory"), MemoryError()])
def test_what_halving_does_not_help_is_raised(error):
    def measure(batch):
        raise error

    with pytest.raises(type(error)):
        halving(measure, torch.zeros(1 if isinstance(error, torch.OutOfMemoryError) else 4, 2))


@pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)
def test_losses_do_not_depend_on_what_fits(tiny_model, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    windows = np.random.default_rng(0).integers(1, 64, size=(5, 16))
    whole, forward = window_losses(model, windows), model.forward

    def small(input_ids, **kwargs):
        if len(input_ids) > 1:
            raise torch.OutOfMemoryError(FULL)
        return forward(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "forward", small)
    assert window_losses(model, windows) == pytest.approx(whole, rel=1e-6)
