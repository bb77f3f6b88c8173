"""prefixes: answers that share their question's pass have the harness's log-likelihoods, or the harness gives them."""

import functools

import numpy as np
import pytest
from lm_eval.models.huggingface import HFLM

from scripts.lib.models import prefixes
from scripts.lib.models.loading import load_dense
from scripts.lib.models.prefixes import questions, sharing_questions
from tests.unit.test_blockwise import KINDS, save


def requests_of(draw, questions, answers, length=100):
    """Questions of so many tokens with answers of one to six tokens, in no order."""
    made = []
    for _ in range(questions):
        question = draw.integers(1, 64, size=length).tolist()
        made += [(("", ""), question, draw.integers(1, 64, size=1 + n % 6).tolist()) for n in range(answers)]
    return [made[number] for number in draw.permutation(len(made))]


@pytest.fixture
def harness_model(tmp_path, tiny_tokenizer):
    def make(kind, dtype="float32"):
        folder = save(tmp_path / kind, kind, max_position_embeddings=256, initializer_range=0.2)
        return HFLM(pretrained=load_dense(folder, dtype), tokenizer=tiny_tokenizer, batch_size=4, max_length=256)

    return make


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"mpt"}))
def test_log_likelihoods_are_those_of_the_harness(harness_model, kind):
    lm, requests = harness_model(kind), requests_of(np.random.default_rng(0), 6, 8)
    expected, asked = lm._loglikelihood_tokens(requests, disable_tqdm=True), []

    def plain(some, **kwargs):
        asked.append(len(some))
        return HFLM._loglikelihood_tokens(lm, some, **kwargs)

    found = sharing_questions(lm, plain)(requests, disable_tqdm=True)
    assert asked == [8], "the first question is asked both ways, no other"
    assert [likely for _, likely in found] == [likely for _, likely in expected]
    gap = max(abs(a - b) / abs(b) for (a, _), (b, _) in zip(found, expected, strict=True))
    assert gap < 1e-5


def test_a_model_whose_cache_cannot_be_used_is_asked_as_the_harness_does(harness_model, monkeypatch):
    lm, requests = harness_model("llama"), requests_of(np.random.default_rng(0), 3, 8)
    expected = lm._loglikelihood_tokens(requests, disable_tqdm=True)
    plain = functools.partial(HFLM._loglikelihood_tokens, lm)
    for broken in (lambda lm, group: [(0.0, True)] * len(group), lambda lm, group: 1 / 0):
        monkeypatch.setattr(prefixes, "answer", broken)
        assert sharing_questions(lm, plain)(requests, disable_tqdm=True) == expected


def test_only_what_saves_a_pass_is_asked_together():
    draw = np.random.default_rng(0)
    assert [len(numbers) for numbers in questions(requests_of(draw, 2, 5), 256)] == [5, 5]
    assert questions(requests_of(draw, 2, 5, length=20), 256) == [], "short questions"
    assert questions(requests_of(draw, 2, 5, length=100), 100) == [], "too long for the model"
    one_token = [(("", ""), [1] * 200, [number]) for number in range(1, 5)]
    assert questions(one_token, 256) == [], "the harness passes them once"
