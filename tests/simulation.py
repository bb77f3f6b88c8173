"""Simulated studies with known truth: how often intervals hold it, and how often verdicts are right.

    python -m tests.simulation            # minutes; prints the tables of tests/simulation.md
    python -m tests.simulation 300        # with so many studies a row

A study is arrays like those that tabulate makes of parquets: sums and sizes by document of a baseline and a quantized
model, on both sides of a comparison, in each run. Effects and influence values come from them by the project's own
functions. What is drawn anew in each study: the documents and their sizes, how documents answer to the comparison, in
all runs alike and in one run alone (Student's t with 4 degrees of freedom: heavy tails), and for each run its seed, its
draw of calibration text and the scatter of its checkpoint. Sizes of noise are those that were measured on the demo.
"""

import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import optimize

from scripts.lib.analysis import intervals
from scripts.lib.analysis.resampling import bootstrap_means
from scripts.lib.analysis.verdicts import (
    EQUAL,
    HIGHER,
    POWER,
    REFUTED,
    SUPPORTED,
    Spread,
    Verdict,
    across_runs,
    judge,
    power,
)

CONFIDENCE = 0.95
RUNS = (3, 5, 10)
EVENNESS = 3.3  # documents by effective documents: 168 by 51 in the demo
STUDIES = 2000  # a row; a quarter of them where documents are drawn again
DRAWS = 400  # resamples


@dataclass(frozen=True)
class World:
    """Noise of one effect, standard deviations in its unit.

    Attributes:
        name: for people.
        relative: True: a difference of relative errors (of cross-entropy); False: a log ratio of KLs.
        documents: how many.
        alike: standard error from documents' answers that all runs share.
        own: the same from answers that each run has for itself.
        seed, calibration, checkpoint: of each run.
    """

    name: str
    relative: bool
    documents: int
    alike: float
    own: float
    seed: float
    calibration: float
    checkpoint: float

    @property
    def run(self) -> float:
        """Standard deviation between runs, beside documents."""
        return float(np.sqrt(self.seed**2 + self.calibration**2 + self.checkpoint**2))


# In the demo (3 bits): standard error from documents 0.08 points of relative error, draws of calibration text 0.09
# points, neighbouring checkpoints 3 to 8 % of an error of 1.3 %; for log KL 0.008, and 2 to 5 % for neighbours.
WORLDS = (
    World("relative error, 168 documents", True, 168, 0.06e-2, 0.05e-2, 0.10e-2, 0.09e-2, 0.07e-2),
    World("relative error, documents lead", True, 60, 0.12e-2, 0.10e-2, 0.03e-2, 0.03e-2, 0.02e-2),
    World("log KL, 168 documents", False, 168, 0.006, 0.005, 0.03, 0.01, 0.035),
    World("log KL, documents as runs", False, 564, 0.010, 0.006, 0.010, 0.005, 0.010),
)


@dataclass(frozen=True)
class Data:
    """One simulated study: sums and sizes of shape (runs, 4 cells, documents), see `effect`."""

    sums: np.ndarray
    sizes: np.ndarray
    relative: bool

    def effect(self, means: np.ndarray) -> np.ndarray:
        """Of means of the cells: baseline and quantized of the reference, then of the other side, (4, ...) -> (...)."""
        if self.relative:
            return means[3] / means[2] - means[1] / means[0]
        return np.log(means[3] / means[1])

    def effects(self) -> tuple[np.ndarray, np.ndarray]:
        """Effects, shape (runs,), and influence values, shape (runs, documents)."""
        found = [intervals.jackknife(self.effect, *run) for run in zip(self.sums, self.sizes, strict=True)]
        return np.array([value for value, _ in found]), np.array([influence for _, influence in found])


def study(world: World, runs: int, truth: float, generator: np.random.Generator) -> Data:
    """Draw one study in which the effect of training is `truth` on average over runs."""
    count, effective = world.documents, world.documents / EVENNESS
    sizes = np.exp(generator.normal(4.5, np.sqrt(np.log(EVENNESS)), count)).clip(2)

    def heavy(*shape: int) -> np.ndarray:  # variance 1
        return generator.standard_t(4, shape) / np.sqrt(2)

    answers = np.sqrt(effective) * (world.alike * heavy(1, count) + world.own * heavy(runs, count))
    of_runs = truth + world.run * generator.normal(size=(runs, 1))
    loss = 3 + 0.6 * generator.normal(size=count)
    if world.relative:
        before = 1.3e-2 * (1 + 0.8 * heavy(count))
        cells = loss, loss * (1 + before), loss, loss * (1 + before + of_runs + answers)
    else:
        before = np.exp(generator.normal(-3, 0.1, count))
        cells = loss, before, loss, before * np.exp(of_runs) * (1 + answers)
    sums = np.stack([np.broadcast_to(cell, (runs, count)) * sizes for cell in cells], axis=1)
    return Data(sums, np.broadcast_to(sizes, sums.shape), world.relative)


def spread(world: World) -> Spread:
    """What the interval of a mean effect is made of, were it known."""
    return Spread(world.run**2 + world.own**2, ((world.alike**2, world.documents / 6),))


def verdicts(world: World, runs: int, truth: float, claims, seed: int, studies: int) -> list[list[Verdict]]:
    """Verdicts on each of these claims (direction, smallest) in so many studies."""
    generator = np.random.default_rng([seed, runs])
    drawn = (study(world, runs, truth, generator).effects() for _ in range(studies))
    found = [[judge(*effects, *claim, CONFIDENCE) for claim in claims] for effects in drawn]
    return [list(verdicts) for verdicts in zip(*found, strict=True)]


def share(flags) -> float:
    """Share of what is true, in percent."""
    return 100 * float(np.mean(list(flags)))


def on_the_line(world: World, runs: int, studies: int, seed: int = 1) -> dict[str, float]:
    """Coverage, and wrong verdicts where the true effect is exactly the smallest that matters, percent of studies."""
    truth = line(world)
    higher, equal = verdicts(world, runs, truth, [(HIGHER, truth), (EQUAL, truth)], seed, studies)
    return {
        "covers": share(verdict.lower <= truth <= verdict.upper for verdict in higher),
        "higher: supported": share(verdict.verdict == SUPPORTED for verdict in higher),
        "higher: refuted": share(verdict.verdict == REFUTED for verdict in higher),
        "equal: supported": share(verdict.verdict == SUPPORTED for verdict in equal),
        "equal: refuted": share(verdict.verdict == REFUTED for verdict in equal),
    }


def line(world: World) -> float:
    """A smallest effect that five runs often resolve: three standard errors of their mean."""
    return 3 * float(np.sqrt(spread(world).of_mean(5)[0]))


def decided(world: World, runs: int, studies: int, seed: int = 2) -> dict[str, float]:
    """Where so many runs are those that `runs_needed` asks for: promised power and the share that was decided rightly.

    The line is at 0 and the true effect where the promise for so many runs is 80 %; in percent.
    """
    known = spread(world)
    promise = partial(power, runs, spread=known, direction=HIGHER, smallest=0.0, confidence=CONFIDENCE)
    truth = optimize.brentq(lambda effect: promise(effect) - POWER, 0, 100 * np.sqrt(known.of_mean(runs)[0]))
    (found,) = verdicts(world, runs, truth, [(HIGHER, 0.0)], seed, studies)
    return {
        "promised": 100 * promise(truth),
        "supported": share(verdict.verdict == SUPPORTED for verdict in found),
    }


def other_intervals(world: World, runs: int, studies: int, seed: int = 3) -> dict[str, float]:
    """What other intervals cover under the same noise, in percent of studies.

    `one run`: the percentile bootstrap over documents of the first run alone, as reports had it until now. `documents`:
    the same of the mean over runs. `runs`: t over runs, without the documents that they share. `both`: hierarchical
    bootstrap, runs and documents drawn again (percentiles). A mixed model with crossed runs and documents has the same
    moments as `judge`, and is not fitted.
    """
    generator, truth = np.random.default_rng([seed, runs]), line(world)
    hits = {name: [] for name in ("one run", "documents", "runs", "both")}
    for number in range(studies):
        data = study(world, runs, truth, generator)
        effects, _ = data.effects()
        flat = data.sums.reshape(-1, world.documents), data.sizes.reshape(-1, world.documents)
        means = bootstrap_means(*flat, DRAWS, number).reshape(DRAWS, runs, 4)
        drawn = data.effect(np.moveaxis(means, -1, 0))
        picked = np.take_along_axis(drawn, generator.integers(0, runs, drawn.shape), axis=1)
        bounds = {
            "one run": percentiles(drawn[:, :1]),
            "documents": percentiles(drawn.mean(axis=1, keepdims=True)),
            "runs": across_runs(effects, None, CONFIDENCE)[1:],
            "both": percentiles(picked.mean(axis=1, keepdims=True)),
        }
        for name, (lower, upper) in bounds.items():
            hits[name].append(lower <= truth <= upper)
    return {name: share(found) for name, found in hits.items()}


def within_runs(world: World, runs: int, studies: int, seed: int = 4) -> dict[str, float]:
    """Coverage of the effect that the same run has on all documents, in percent: by jackknife and by bootstrap.

    With one run and no noise of runs the truth of the run is known.
    """
    still = replace(world, seed=0.0, calibration=0.0, checkpoint=0.0)
    generator, truth, hits = np.random.default_rng(seed), line(world), {"jackknife": [], "bootstrap": []}
    for number in range(studies):
        data = study(still, runs, truth, generator)
        found = judge(*data.effects(), HIGHER, 0.0, CONFIDENCE)
        hits["jackknife"].append(found.lower <= truth <= found.upper)
        drawn = data.effect(bootstrap_means(data.sums[0], data.sizes[0], DRAWS, number).T)
        lower, upper = percentiles(drawn[:, None])
        hits["bootstrap"].append(lower[0] <= truth <= upper[0])
    return {name: share(found) for name, found in hits.items()}


def percentiles(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The percentile interval over the first axis, (lower, upper), each shaped as one sample."""
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(samples, [tail, 1 - tail], axis=0)
    return lower, upper


def main(studies: int) -> None:
    """Print all tables as Markdown."""
    cases = [(world, runs) for world in WORLDS for runs in RUNS]
    with ProcessPoolExecutor() as pool:
        for title, calculate, rows, count in (
            ("Verdicts, with the true effect on the line", on_the_line, cases, studies),
            ("Power of the runs that are asked for", decided, cases, studies),
            ("Other intervals of the same effects", other_intervals, cases, max(1, studies // 4)),
            ("Documents of one run", within_runs, [(world, 1) for world in WORLDS], studies),
        ):
            found = pool.map(calculate, *zip(*rows, strict=True), [count] * len(rows))
            show(f"{title}: {count} studies a row, percent of them", rows, list(found))


def show(title: str, rows: list[tuple[World, int]], found: list[dict[str, float]]) -> None:
    """One table, a row a world and number of runs."""
    print(f"\n## {title}\n")
    print("| " + " | ".join(["noise", "runs", *found[0]]) + " |")
    print("| " + " | ".join(["---"] * (2 + len(found[0]))) + " |")
    for (world, runs), values in zip(rows, found, strict=True):
        print("| " + " | ".join([world.name, str(runs), *(f"{value:.1f}" for value in values.values())]) + " |")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES)
