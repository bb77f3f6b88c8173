"""The laws, one entry each: what it describes, its parameters, its formula and where that is from.

A law gives the logarithm of a quantity at points (`histories.Points`). Tokens, sizes, rates and sums of rates are in
units of the study (their geometric means, or the highest rate), so that amplitudes belong to the middle of its data.
Every law is multiplied by a power of the size, `size`, and laws of quantized models are told the bits; what a study
holds fixed falls out of the fit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scripts.lib.analysis.laws.histories import Points
from scripts.lib.analysis.metrics import KL

LOSS, PENALTY = "loss", "penalty"  # cross-entropy of the unquantized model; what quantization adds to it
QUANTITIES = {
    LOSS: "loss before quantization",
    PENALTY: "penalty",
    KL.name: "KL",
}
SMALLEST = 1e-6  # nats: where the terms of a law cancel, its value stays positive
LAST, TOKENS_AND_RATE = "last-checkpoint", "tokens-and-rate"


@dataclass(frozen=True)
class Parameter:
    """A number that is fitted.

    Attributes:
        name: in formulas and tables.
        lower, upper: where it is looked for.
        logarithmic: whether it is positive and spans orders of magnitude.
        needs: what must differ in the data for it to mean anything (`Points.varies`); held at `held` without.
        published: its value in the source, where one was verified; for orientation, it is fitted anyway.
    """

    name: str
    lower: float
    upper: float
    logarithmic: bool = False
    needs: str | None = None
    held: float = 0.0
    published: float | None = None


@dataclass(frozen=True)
class Law:
    """A law, or a baseline that laws have to beat.

    Attributes:
        name, words: in tables, and for people.
        quantities: what it was made for.
        parameters: in the order in which `log_value` takes them.
        log_value: the logarithm of the quantity at all points, from points and parameters.
        source: where the form was taken from.
        baseline: whether it is a baseline.
    """

    name: str
    words: str
    quantities: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    log_value: Callable[..., np.ndarray]
    source: str
    baseline: bool = False


def size_power(published: float | None = None) -> Parameter:
    """The exponent of the model's size; in laws without one of their own, sizes then share a shape."""
    return Parameter("size", -1.0, 2.0, needs="size", published=published)


def amplitude(name: str, lower: float = 1e-6, upper: float = 1e3) -> Parameter:
    """A positive factor: nats at the middle of the study's data."""
    return Parameter(name, lower, upper, logarithmic=True)


TIMES_BITS = Parameter("per_bit", -1.0, 5.0, needs="bits")


def _log(value: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(value, SMALLEST))


def _size(points: Points, power: float) -> np.ndarray:
    return -power * np.log(points.size / points.size_unit)


def _bits(points: Points, rate: float) -> np.ndarray:
    """exp(-rate * bits), on logarithms; 0 for unquantized models."""
    return -rate * np.nan_to_num(points.bits)


def _kumar(points: Points, c, gamma_d, per_bit, size) -> np.ndarray:
    """C D^gamma_D / N^gamma_N exp(-P / gamma_post); per_bit is 1 / gamma_post."""
    grown = gamma_d * np.log(points.tokens / points.token_unit)
    return np.log(c) + grown + _bits(points, per_bit) + _size(points, size)


def _ouyang(points: Points, k, beta, gamma, size) -> np.ndarray:
    """k D^beta / (N^alpha P^gamma)."""
    grown = beta * np.log(points.tokens / points.token_unit)
    return np.log(k) + grown - gamma * np.log(points.bits) + _size(points, size)


def _annealing(points: Points, floor, a, alpha, c, memory, size) -> np.ndarray:
    """L0 + A S1^-alpha - C S2, where a fall of the rate n steps ago adds (1 - lambda^n) / (1 - lambda) of it to S2.

    That is S2 = sum_i m_i, m_i = lambda m_(i-1) + (eta_(i-1) - eta_i), summed. memory is 1 / (1 - lambda), in steps.
    """
    decayed = np.exp(points.steps_after * np.log1p(-1 / memory))
    area = (points.falls * memory * (1 - decayed)).sum(axis=1) / points.forward_unit
    forward = (points.forward / points.forward_unit) ** -alpha
    return _log(floor + a * forward - c * area) + _size(points, size)


def _multi_power(points: Points, floor, a, alpha, b, c, beta, gamma, size) -> np.ndarray:
    """L0 + A (S1 + S_W)^-alpha - B sum_k (eta_(k-1) - eta_k) (1 - (C eta_k^-gamma S_k + 1)^-beta)."""
    unit = points.rate_unit
    rates = np.maximum(points.rate_after / unit, 1e-3)
    gone = 1 - (1 + c * rates**-gamma * points.forward_after / points.forward_unit) ** -beta
    drop = b * (points.falls / unit * gone).sum(axis=1)
    forward = (points.forward / points.forward_unit) ** -alpha
    return _log(floor + a * forward - drop) + _size(points, size)


def _two_factors(points: Points, c, grown, annealed, memory, peak, per_bit, size) -> np.ndarray:
    """Size of the perturbation times sensitivity: C S1^grown peak^-peak exp(-per_bit P) * exp(annealed F).

    F, from 0 to 1, is the share of the peak rate that has been annealed away, each fall counted by 1 - exp(-n / memory)
    after n steps: weights feel a lower rate only after a while.
    """
    felt = 1 - np.exp(-points.steps_after / memory)
    share = (points.falls * felt).sum(axis=1) / points.peak
    moved = grown * np.log(points.forward / points.forward_unit) - peak * np.log(points.peak / points.rate_unit)
    return np.log(c) + moved + annealed * share + _bits(points, per_bit) + _size(points, size)


def _tokens_and_rate(points: Points, c, tokens, rate, per_bit, size) -> np.ndarray:
    """C D^tokens exp(rate eta / highest eta): a straight line in tokens and the rate of the moment, on logarithms."""
    line = tokens * np.log(points.tokens / points.token_unit) + rate * points.rate / points.rate_unit
    return np.log(c) + line + _bits(points, per_bit) + _size(points, size)


def _last(points: Points) -> np.ndarray:
    return np.zeros(len(points.tokens))


LAWS = (
    Law(
        LAST,
        "same as the last checkpoint",
        tuple(QUANTITIES),
        (),
        _last,
        "no change since the run's last measured checkpoint",
        baseline=True,
    ),
    Law(
        TOKENS_AND_RATE,
        "tokens and rate alone",
        tuple(QUANTITIES),
        (amplitude("C"), Parameter("tokens", -3, 3), Parameter("rate", -5, 5), TIMES_BITS, size_power()),
        _tokens_and_rate,
        "a straight line in log tokens and in the learning rate of the moment",
        baseline=True,
    ),
    Law(
        "kumar",
        "Kumar et al.",
        (PENALTY,),
        (
            amplitude("C"),
            Parameter("gamma_D", -3, 3, published=0.5068),
            Parameter("per_bit", -1.0, 5.0, needs="bits", published=1 / 0.5907),
            size_power(0.3439),
        ),
        _kumar,
        "arXiv:2411.04330, delta_PTQ and its table 2; the authors say that constants do not transfer",
    ),
    Law(
        "ouyang",
        "Ouyang et al.",
        (PENALTY,),
        (
            amplitude("k", 1e-6, 1e6),
            Parameter("beta", -3, 3),
            Parameter("gamma", -2, 15, needs="bits"),
            size_power(),
        ),
        _ouyang,
        "arXiv:2411.17691, the law in D, N and P; its form from summaries, its constants were not verified",
    ),
    Law(
        "two-factors",
        "two factors",
        (PENALTY, KL.name),
        (
            amplitude("C"),
            Parameter("grown", -2, 3),
            Parameter("annealed", -3, 3, needs="falls"),
            Parameter("memory", 3, 3e4, logarithmic=True, needs="falls", held=300.0),
            Parameter("peak", -3, 3, needs="peak"),
            TIMES_BITS,
            size_power(),
        ),
        _two_factors,
        "this project: size of the perturbation times sensitivity, from sums over the learning rates",
    ),
    Law(
        "annealing",
        "annealing law",
        (LOSS,),
        (
            amplitude("L0", 0.01, 20),
            amplitude("A", 1e-3, 20),
            Parameter("alpha", 0.02, 3, logarithmic=True),
            Parameter("C", 1e-4, 100, logarithmic=True, needs="falls", held=1.0),
            Parameter("memory", 3, 3e4, logarithmic=True, needs="falls", held=1000.0),
            size_power(),
        ),
        _annealing,
        "arXiv:2408.11029, the law of its abstract; S2 as public re-implementations have it (lambda 0.999 there), "
        "lambda fitted",
    ),
    Law(
        "multi-power",
        "multi-power law",
        (LOSS,),
        (
            amplitude("L0", 0.01, 20),
            amplitude("A", 1e-3, 20),
            Parameter("alpha", 0.02, 3, logarithmic=True),
            Parameter("B", 1e-3, 20, logarithmic=True, needs="falls", held=1.0),
            Parameter("C", 1e-2, 1e4, logarithmic=True, needs="falls", held=1.0),
            Parameter("beta", 0.05, 5, logarithmic=True, needs="falls", held=0.5),
            Parameter("gamma", 0.0, 2, needs="falls", held=0.5),
            size_power(),
        ),
        _multi_power,
        "arXiv:2503.12811, the law of its introduction and of its code's README",
    ),
)
BY_NAME = {law.name: law for law in LAWS}


def laws_of(quantity: str) -> tuple[Law, ...]:
    """Laws and baselines of a quantity."""
    return tuple(law for law in LAWS if quantity in law.quantities)
