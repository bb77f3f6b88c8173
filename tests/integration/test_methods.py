"""The study of methods: its page is true, more bits err less, and two GPTQs agree on small models. An hour in all."""

import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import polars
import pytest

from scripts.commands.methods import PAGE
from scripts.lib.analysis.metrics import CROSS_ENTROPY, rows_of
from scripts.lib.data.windows import draw_windows
from scripts.lib.models.forward import window_losses
from scripts.lib.models.loading import load_dense
from scripts.quantizers import load_quantizer
from tests.tools import ROOT, copy_tree
from tests.unit.test_quantize import recipe_file

pytestmark = pytest.mark.full
DRAWS = (1, 2, 3)
MODELS = tuple(f"methods-{name}" for name in ("llama", "gpt-neox", "olmo2", "smollm3", "apertus"))


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A tree in which the study has been run to its page."""
    subprocess.run(["make", "llama-quantize"], cwd=ROOT, check=True)
    tree = copy_tree(tmp_path_factory.mktemp("methods") / "tree")
    (tree / ".llama.cpp").symlink_to(ROOT / ".llama.cpp")
    subprocess.run([sys.executable, "-m", "scripts.commands.methods"], cwd=tree, check=True)
    return tree


@pytest.fixture(scope="module")
def losses(studied):
    table = polars.read_parquet(studied / "results/tables/methods/measurements.parquet")
    return rows_of(table, CROSS_ENTROPY)


def statuses(page):
    """Method -> whether it works or is refused, model by model."""
    table = page.split("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|[^|]*\|[^|]*\|(.*)\|$", table, re.MULTILINE)
    return {name: [status(cell) for cell in cells.split("|")] for name, cells in rows}


def status(cell):
    if not cell.strip():
        return "not run"
    return re.fullmatch(r" (refused) \(\d+\) | [+-]\d+\.\d ± \d+\.\d ", cell)[1] or "works"


def test_the_page_says_what_works(studied):
    kept, made = statuses((ROOT / PAGE).read_text()), statuses((studied / PAGE).read_text())
    assert kept == made
    assert len(made) > 40
    everywhere = [cells for name, cells in made.items() if name.startswith(("rtn", "gptq", "hqq", "nf4"))]
    assert set().union(*everywhere) <= {"works", "not run"}


FAMILIES = ("rtn-w{}-g64", "rtn-w{}-g64-asym", "rtn-w{}-channel", "gptq-w{}-g64", "gptq-w{}-g64-asym")
FAMILIES += ("gptq-w{}-g64-natural-llmcompressor", "awq-w{}-g64-asym", "autoround-w{}-g64", "hqq-w{}-g64")
K_QUANTS = ("q2_k", "q3_k_m", "q4_k_m", "q6_k")


@pytest.mark.parametrize(
    "family", [tuple(name.format(bits) for bits in (2, 3, 4, 6, 8)) for name in FAMILIES] + [K_QUANTS]
)
def test_more_bits_err_less(losses, family):
    """No violation larger than the noise, which is the 95 % intervals of both cells."""
    compared = 0
    for model in MODELS:
        rows = {row["method"]: row for row in losses.filter(trajectory=model).to_dicts()}
        for fewer, more in pairwise(rows[name] for name in family if name in rows):
            assert more["lower"] < fewer["upper"], (model, fewer["method"], more["method"])
            compared += 1
    assert compared >= 3


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("library", ["", "-natural-llmcompressor"])
def test_gptq_beats_round_to_nearest(losses, bits, library):
    for model in MODELS:
        rows = {row["method"]: row for row in losses.filter(trajectory=model).to_dicts()}
        assert rows[f"gptq-w{bits}-g64{library}"]["upper"] < rows[f"rtn-w{bits}-g64"]["lower"], model


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("model", ["methods-llama", "methods-gpt-neox"])
def test_two_implementations_of_gptq_agree_on_small_models(studied, tmp_path, model, bits):
    """The means of their loss differences over three draws of calibration text lie within two deviations of a draw.

    Their orders of columns differ, which costs nothing here: inputs of these models have no outliers. On a real model
    it does (config/recipes/README.md).
    """
    source = studied / f"resources/checkpoints/{model}/step-500/model"
    tokens = studied / "resources/tokens/docstrings-2048"
    probe = draw_windows(tokens / "docstrings-validation.npy", {"samples": 256, "window": 128, "seed": 1})
    baseline = window_losses(load_dense(source), probe).mean()
    found = []
    for name in (f"gptq-w{bits}-g64", f"gptq-w{bits}-g64-natural-llmcompressor"):
        method, differences = recipe_file(name), []
        for seed in DRAWS:
            calibration = draw_windows(tokens / "docstrings-calibration.npy", method["calibration"] | {"seed": seed})
            folder = tmp_path / f"{name}-{seed}"
            load_quantizer(method["library"])(source, method, calibration, "cpu").save(folder)
            differences.append(window_losses(load_dense(folder), probe).mean() - baseline)
        found.append(np.array(differences))
    noise = np.sqrt(np.mean([values.var(ddof=1) for values in found]))
    print(model, bits, "GPTQModel", found[0], "llm-compressor", found[1], "deviation of a draw", noise)
    assert abs(found[0].mean() - found[1].mean()) < 2 * noise
