"""auto-gptq 0.7.1, in its own environment: it reads what is quantized here, and what it writes is read here."""

import subprocess

import numpy as np
import pytest

from scripts.lib.models.forward import window_losses
from scripts.lib.models.loading import load_dense
from scripts.lib.runtime.shortages import Refused
from scripts.quantizers import load_quantizer
from scripts.quantizers.autogptq import ask
from tests.tools import ROOT
from tests.unit.test_quantize import CALIBRATION, PROBE, recipe

METHODS = {
    **{f"{bits} bits": {"bits": bits} for bits in (2, 3, 4, 8)},
    "zero points": {"bits": 4, "symmetric": False},
    "activation order": {"bits": 4, "desc_act": True, "act_group_aware": False},
}


@pytest.fixture(scope="module")
def environment():
    subprocess.run(["make", "auto-gptq"], cwd=ROOT, check=True)


@pytest.mark.full
def test_each_reads_the_others_files(environment, tiny_model, tmp_path):
    np.save(tmp_path / "probe.npy", PROBE)
    requests, here = [], {}
    for name, changes in METHODS.items():
        ours, theirs = tmp_path / name / "ours", tmp_path / name / "theirs"
        method = recipe("gptq-w4-g128", **changes)
        load_quantizer("gptqmodel")(tiny_model, method, CALIBRATION, "cpu").save(ours)
        here[name] = window_losses(load_dense(ours), PROBE).mean()
        output = {"windows": str(tmp_path / "probe.npy"), "out": str(tmp_path / name / "there.npy"), "device": "cpu"}
        requests.append({"do": "losses", "folder": str(ours)} | output)
        requests.append({"do": "rewrite", "source": str(ours), "out": str(theirs), "device": "cpu"})
    ask(*requests)
    for name, loss in here.items():
        assert np.load(tmp_path / name / "there.npy").mean() == pytest.approx(loss, abs=1e-4), name
        assert window_losses(load_dense(tmp_path / name / "theirs"), PROBE).mean() == pytest.approx(loss, abs=1e-4), (
            name
        )


def test_without_cuda_it_is_refused(tiny_model):
    with pytest.raises(Refused, match="CUDA only"):
        load_quantizer("autogptq")(tiny_model, recipe("gptq-w4-g128-natural-autogptq"), CALIBRATION, "cpu")
