"""Resources: sizes against real models, growth with size and attempt, a request for every rule that goes to a node."""

import re
from dataclasses import replace

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from scripts.lib.cluster import requests
from scripts.lib.cluster.requests import Model, Need
from scripts.lib.models import forward
from scripts.lib.study import sizes
from scripts.lib.study.plan import load_plan
from scripts.lib.study.recipes import load_recipe
from tests.tools import ROOT

SMALL = Model(10**6, 64, 2, 2048)
WIDE = {"hidden_size": 2048, "intermediate_size": 4096}
LARGE = Model(7 * 10**9, 4096, 32, 50_000)
VERY_LARGE = Model(32 * 10**9, 5120, 64, 100_000)


@pytest.mark.parametrize("architecture", ["llama", "gpt_neox"])
@pytest.mark.parametrize("tied", [True, False])
def test_size_of_model_is_near_the_real_number(architecture, tied):
    shape = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    shape |= {"tie_word_embeddings": tied} | ({"num_key_value_heads": 2} if architecture == "llama" else {})
    config = AutoConfig.for_model(architecture, vocab_size=512, **shape)
    real = AutoModelForCausalLM.from_config(config).num_parameters()
    estimate = sizes.size_of_model(shape | {"architecture": architecture}, {"vocabulary": 512}).parameters
    assert estimate == pytest.approx(real, rel=0.03)


def test_size_of_folder(tiny_model):
    model = sizes.size_of_folder(tiny_model)
    assert (model.width, model.blocks, model.vocabulary) == (32, 2, 64)
    assert model.parameters > 2 * 4 * 32 * 32


def test_memory_and_time_double_with_each_attempt():
    assert [Need(1000, 10).at(attempt) for attempt in (1, 2, 3)] == [Need(1000, 10), Need(2000, 20), Need(4000, 40)]


@pytest.mark.parametrize(
    "need",
    [
        lambda model: requests.train(model, 1000, 4096, 4096, 1e12),
        lambda model: requests.quantize(model, 100_000, 3e6, 128, 1e12),
        lambda model: requests.evaluate_loss(model, 100_000, 4096, 1e12),
        lambda model: requests.evaluate_tasks(model, 1e6, 1e12),
    ],
)
def test_a_larger_model_asks_for_more(need):
    small, large = need(SMALL), need(LARGE)
    assert large.memory > max(small.memory, 5 * LARGE.parameters / 1e6)
    assert large.minutes > small.minutes >= requests.START_MINUTES
    assert small.memory < 2 * requests.PROCESS_MB


@pytest.mark.parametrize(("size", "bytes_a_weight"), [(2, 2.5), (4, 5)])
def test_loss_and_tasks_ask_for_no_more_than_a_model(size, bytes_a_weight):
    """Hidden states of 600,000 tokens and a block fit into a fifth of a 32B."""
    need = requests.evaluate_loss(VERY_LARGE, 600_000, 16 * 2048, 1e12, gpu=True, size=size)
    assert need.memory * 1e6 == pytest.approx(bytes_a_weight * VERY_LARGE.parameters, rel=0.05)
    assert requests.evaluate_tasks(VERY_LARGE, 1e6, 1e12, gpu=True, size=size).memory == need.memory


def test_quantizing_asks_for_the_model_that_is_made_and_not_for_its_check():
    need = requests.quantize(VERY_LARGE, 256 * 2048, 1e6, 2048, 1e12, gpu=True)
    assert 6.5 * VERY_LARGE.parameters < need.memory * 1e6 < 8 * VERY_LARGE.parameters


def test_a_gpu_is_asked_for_less_time():
    gpu, cpu = (requests.speed({"device": device, "threads": 1}, "float32") for device in ("cuda", "auto"))
    assert requests.quantize(LARGE, 10**5, 3 * 10**6, 2048, gpu, gpu=True).minutes < 60
    assert requests.quantize(LARGE, 10**5, 3 * 10**6, 2048, cpu).minutes > 600


@pytest.mark.parametrize(("name", "memory"), [("olmo2-13b", 120_000), ("olmo2-7b", 70_000), ("smollm3-3b", 32_000)])
def test_requests_of_the_reference_study_are_within_usual_limits(name, memory):
    needs = requests.needs(load_plan("paper"), name)
    for rule in ("quantize", "evaluate_loss", "evaluate_tasks"):
        assert needs[rule].memory <= memory, rule
        assert needs[rule].minutes <= 240, rule


def test_a_transform_asks_for_a_further_copy():
    plain, transformed = (requests.quantize(LARGE, 10**5, 1e6, 128, 1e12, transformed=word) for word in (False, True))
    assert transformed.memory > plain.memory


def test_tokens_of_documents_grow_with_their_examples():
    plan = load_plan("paper")
    suite = plan.suites["paper12"]
    assert requests.task_tokens(plan, suite) == pytest.approx(47e6, rel=0.05)
    assert requests.task_tokens(plan, suite | {"shots": 0}) < requests.task_tokens(plan, suite) / 2


def test_quantizing_asks_for_its_checks_too():
    """Methods without calibration pass the probe through the model all the same."""
    plan = load_plan("smoke")
    plan.recipes = {"rtn": load_recipe("config/recipes", "rtn-w4-g32")}
    few = requests.needs(plan, "smoke")["quantize"]
    plan.config["quantize"]["probe"] = {"corpus": "docstrings", "samples": 100_000, "window": 1024}
    many = requests.needs(plan, "smoke")["quantize"]
    assert many.minutes > few.minutes
    assert many.memory > few.memory
    assert requests.LOGITS == forward.LOGITS


def test_a_split_that_is_evaluated_whole_asks_for_time():
    plan = load_plan("smoke")
    plan.config["evaluate_loss"]["windows"] = "all"
    assert requests.loss_tokens(plan.config["evaluate_loss"]) == requests.WHOLE_SPLIT
    assert requests.needs(plan, "smoke")["evaluate_loss"].minutes > requests.START_MINUTES


def test_every_trajectory_asks_for_its_own_size():
    plan = load_plan("smoke")
    smoke = plan.trajectories["smoke"]
    plan.trajectories["smoke"] = replace(smoke, shape=smoke.shape | WIDE)
    wide, narrow = requests.needs(plan, "smoke"), requests.needs(plan, "smoke-cooldown")
    assert wide["quantize"].memory > narrow["quantize"].memory
    assert wide["tokenize"] == narrow["tokenize"]
    assert requests.needs(plan, "smoke-lawa")["average"].memory >= requests.PROCESS_MB
    assert requests.needs(plan, "smoke-lawa")["train"] is None


def test_every_rule_asks_or_runs_where_snakemake_was_started():
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        text = path.read_text()
        local = re.findall(r"^localrules:\n((?:    \w+,\n)+)", text, re.MULTILINE)
        for name, body in re.findall(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL):
            assert ("**asks(" in body) != any(f"    {name},\n" in block for block in local), name


def test_methods_that_work_more_ask_for_more():
    def passes(name):
        return requests.forward_passes(load_recipe("config/recipes", name), LARGE)

    assert passes("gptq-w3-g64") < passes("awq-gptq-w3-g64-natural-llmcompressor")
    assert passes("gptq-w3-g64") < passes("autoround-w3-g64") == 6 * 100 * 8 / 128
    assert passes("mixed-w3-g64") == 2 * 7 * LARGE.blocks * 4
