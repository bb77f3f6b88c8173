"""Answers to one question: what comes before them passes the model once for all of them.

The harness passes a question, with the examples before it, once for each of its answers of several tokens. Here keys
and values of the question are kept and the answers follow in one pass. Other shapes of matrices round otherwise: the
log-likelihoods are those of the harness within TOLERANCE, which is checked on the first question of every model.
"""

import copy
import logging
from collections.abc import Callable

import torch

from scripts.lib.runtime.shortages import is_shortage

WORTH = 256  # tokens that one question must save: for less the harness's batches are as fast
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}  # relative, of log-likelihoods

Request = tuple[tuple[str, str], list[int], list[int]]  # texts, and tokens of question and answer
Answer = tuple[float, bool]  # log-likelihood, and whether each token is the most likely one


def sharing_questions(lm, plain: Callable) -> Callable:
    """The harness's `_loglikelihood_tokens`, in which answers to one question share its pass where that is worth it.

    Args:
        lm: the harness's model, an HFLM.
        plain: its own method, for all other requests, and for all of a model that does not keep its cache rightly.
    """
    trusted = None  # whether this model's cache gives the same numbers; not known yet

    def answer_all(requests: list[Request], *args, **kwargs) -> list[Answer]:
        nonlocal trusted
        answers, left = [None] * len(requests), set(range(len(requests)))
        for numbers in questions(requests, lm.max_length) if trusted is not False else ():
            group = [requests[number] for number in numbers]
            found = answer(lm, group) if trusted else tried(lm, group, plain)
            trusted = found is not None
            if not trusted:
                break
            left -= set(numbers)
            for number, value in zip(numbers, found, strict=True):
                answers[number] = value
        others = sorted(left)
        if others:
            for number, value in zip(others, plain([requests[i] for i in others], *args, **kwargs), strict=True):
                answers[number] = value
        return answers

    return answer_all


def questions(requests: list[Request], longest: int) -> list[list[int]]:
    """Numbers of the requests of each question that is worth a pass of its own, in their order.

    Answers of one token share their pass in the harness already.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (_, question, _) in enumerate(requests):
        groups.setdefault(tuple(question), []).append(number)
    worth = []
    for question, numbers in groups.items():
        passes = len({tuple(requests[number][2][:-1]) for number in numbers})
        fits = len(question) + max(len(requests[number][2]) for number in numbers) <= longest
        if fits and (passes - 1) * (len(question) - 1) >= WORTH:
            worth.append(numbers)
    return worth


def tried(lm, group: list[Request], plain: Callable) -> list[Answer] | None:
    """Answers to the first question, if they are what the harness finds; else None."""
    log, expected = logging.getLogger(__name__), plain(group, disable_tqdm=True)
    try:
        found = answer(lm, group)
    except Exception as error:
        if is_shortage(error):
            raise
        log.info("questions pass once for each answer: %s: %s", type(error).__name__, error)
        return None
    gap = max(abs(a - b) / max(abs(b), 1e-9) for (a, _), (b, _) in zip(found, expected, strict=True))
    if not gap <= TOLERANCE[lm.model.dtype]:
        log.info("questions pass once for each answer: with a cache log-likelihoods differ by %.2g", gap)
        return None
    return found


@torch.inference_mode()
def answer(lm, group: list[Request]) -> list[Answer]:
    """Answers of one question, in their order; as many at once as the harness passes."""
    question = torch.tensor([group[0][1]], device=lm.device)
    cache = lm.model(input_ids=question[:, :-1], use_cache=True).past_key_values
    found = []
    for first in range(0, len(group), lm.batch_size):
        answers = [tokens for _, _, tokens in group[first : first + lm.batch_size]]
        rows = torch.zeros(len(answers), max(map(len, answers)), dtype=torch.long, device=lm.device)
        rows[:, 0] = question[0, -1]
        for row, tokens in zip(rows, answers, strict=True):  # what fills a row up comes after all that is looked at
            row[1 : len(tokens)] = torch.tensor(tokens[:-1])
        copied = copy.deepcopy(cache)
        copied.batch_repeat_interleave(len(answers))
        logits = lm.model(input_ids=rows, past_key_values=copied, use_cache=True).logits
        scores = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
        for row, tokens in zip(scores, answers, strict=True):
            row, wanted = row[: len(tokens)], torch.tensor(tokens, device=lm.device)
            likely = bool((row.argmax(-1) == wanted).all())
            found.append((float(row.gather(-1, wanted[:, None]).sum()), likely))
    return found
