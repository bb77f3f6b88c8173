"""The harness's requests to a model run block by block: a block passes over many batches before the next one is read.

The harness chooses what passes, and scores it. It is asked twice: first for the tokens of each batch, then, with these
batches' hidden states at hand, for the answers. Batches are those of a model in memory, so answers are the same bit for
bit; only that answers to one question do not share its pass (`prefixes`).
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from scripts.lib.models.blockwise import MOST_STATES, PROBE, Blockwise, NotByBlocks
from scripts.lib.models.loading import load_empty
from scripts.lib.models.prefixes import Answer, Request
from scripts.lib.runtime.devices import has_room, memory_of
from scripts.lib.runtime.logs import Progress

FITS = 0.8  # of the memory of where a model runs: what its weights take at most to be there all at once


class Batch(NamedTuple):
    """What the harness passes at once: requests of one of its calls, their numbers there, tokens [rows, longest]."""

    call: int
    numbers: list[int]
    requests: list[Request]
    ids: np.ndarray


class _Asked(Exception):
    """The harness has come to where it asks the model."""


def too_large(folder: Path, dtype: str, device: str) -> Blockwise | None:
    """A model whose weights do not fit where it runs, to be run block by block; None if they do or it cannot be.

    Raises:
        ValueError: as `load_dense`.
    """
    log, itemsize = logging.getLogger(__name__), getattr(torch, dtype).itemsize
    size, most = itemsize * sum(weight.numel() for weight in load_empty(folder).parameters()), memory_of(device)
    if size <= FITS * most:
        return None
    try:
        model = Blockwise(folder, dtype, device, exact_head=False)
        model.run(0, model.begin(np.zeros((1, PROBE), np.int64), 1))
    except NotByBlocks as reason:
        log.info("%s is loaded whole: %s", folder, reason)
        return None
    log.info("%s is run block by block: its weights take %.1f GB of %.1f", folder, size / 1e9, most / 1e9)
    return model


def streaming(lm, model: Blockwise, method: Callable) -> Callable:
    """One of the harness's methods that give log-likelihoods, whose batches pass a model block by block.

    Args:
        lm: the harness's model, an HFLM of `model.model`.
        method: asks `lm._loglikelihood_tokens`, once or more often.
    """
    plain = type(lm)._loglikelihood_tokens.__get__(lm)

    def answer_all(*args, **kwargs):
        calls = []

        def record(requests: list[Request], **_) -> list[Answer]:
            calls.append(requests)
            return [(0.0, False)] * len(requests)

        lm._loglikelihood_tokens = record
        method(*args, **kwargs)
        answers = iter(_answers(lm, model, plain, calls))
        calls.clear()
        lm._loglikelihood_tokens = lambda *_, **__: next(answers)
        return method(*args, **kwargs)

    return answer_all


def _answers(lm, model: Blockwise, plain: Callable, calls: list[list[Request]]) -> list[list[Answer]]:
    """The answers to the requests of each call; as many batches pass at once as have MOST_STATES of hidden states."""
    found, done = [[None] * len(requests) for requests in calls], 0
    progress = Progress(sum(map(len, calls)), "requests")
    for batches in together(_batches(lm, plain, calls), MOST_STATES // model.state):
        for batch, answers in zip(batches, _passed(lm, model, plain, batches), strict=True):
            for number, answer in zip(batch.numbers, answers, strict=True):
                found[batch.call][number] = answer
        done += sum(len(batch.numbers) for batch in batches)
        progress.update(done)
    return found


def _passed(lm, model: Blockwise, plain: Callable, batches: list[Batch]) -> list[list[Answer]]:
    """The answers to each batch, all of which pass a block before the next one is read."""
    device = model.device if has_room(4 * MOST_STATES, model.device) else "cpu"
    passings = []
    for batch in batches:
        passing = model.begin(batch.ids, len(batch.ids))
        passings.append(passing._replace(states=passing.states.to(device)))
    for number in range(len(model.places)):
        model.run(number, *passings)
    found = []
    for batch, passing in zip(batches, passings, strict=True):
        lm._model_call = functools.partial(model.logits, states=passing.states)
        found.append(plain(batch.requests, disable_tqdm=True))
    return found


def together(batches: Iterable[Batch], most: int) -> Iterator[list[Batch]]:
    """Batches that pass at once: with so many tokens at most, and one at least."""
    held, tokens = [], 0
    for batch in batches:
        if held and tokens + batch.ids.size > most:
            yield held
            held, tokens = [], 0
        held.append(batch)
        tokens += batch.ids.size
    if held:
        yield held


def _batches(lm, plain: Callable, calls: list[list[Request]]) -> Iterator[Batch]:
    """What the harness passes at once, in its order."""

    def record(ids: torch.Tensor):
        raise _Asked(ids.cpu().numpy())

    for call, requests in enumerate(calls):
        for numbers in batched(requests, lm.batch_size):
            asked = [requests[number] for number in numbers]
            lm._model_call = record
            try:
                plain(asked, disable_tqdm=True)
            except _Asked as reached:
                yield Batch(call, numbers, asked, *reached.args)


def batched(requests: list[Request], size: int) -> Iterator[list[int]]:
    """Numbers of the requests of each batch, as the harness makes them: the longest first.

    Those that differ in their last token only are one row, and asked for by the one with the longest answer.
    """
    rows: dict[tuple[int, ...], list[int]] = {}
    for number, (_, question, answer) in enumerate(requests):
        rows.setdefault((*question, *answer[:-1]), []).append(number)

    def order(numbers: list[int]) -> tuple[int, list[int]]:
        _, question, answer = requests[max(numbers, key=lambda number: len(requests[number][2]))]
        return -len(question) - len(answer), question + answer

    ordered = sorted(rows.values(), key=order)
    for first in range(0, len(ordered), size):
        yield sorted(number for row in ordered[first : first + size] for number in row)
