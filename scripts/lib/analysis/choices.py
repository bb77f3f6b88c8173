"""What to ship: which checkpoint of a run, by which method, has the lowest loss at each size.

Candidates are the checkpoints near a run's end with every method, the unquantized too. They are chosen on half of the
documents and judged on the other half: who is chosen for low numbers looks better in these numbers than it is. The
choice is between these very models, so that documents are the noise that counts; another run may choose otherwise.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from scripts.lib.analysis import intervals
from scripts.lib.analysis.measures import Measure
from scripts.lib.analysis.metrics import CROSS_ENTROPY
from scripts.lib.analysis.resampling import bootstrap_means

BASELINE = "none"
NEAR_END = 0.5  # of a run's tokens: candidates have at least so many, or are the last of their trajectory
DRAWS = 4000  # of documents, for probabilities: within 0.016 of what endless draws would say, 19 times of 20
KEYS = ("trajectory", "checkpoint", "method")
CHOICES = {
    **dict.fromkeys(("study", "run", "dataset", *KEYS), pl.String),
    **dict.fromkeys(("bytes", "bytes_zstd"), pl.Int64),
    **dict.fromkeys(("bits_per_weight", "loss", "loss_lower", "loss_upper"), pl.Float64),
    "on_front": pl.Boolean,
    "best_probability": pl.Float64,
    "runner_up": pl.String,
    **dict.fromkeys(("regret", "regret_lower", "regret_upper"), pl.Float64),
}


@dataclass(frozen=True)
class Candidate:
    """A model that could be shipped.

    Attributes:
        cell: trajectory, checkpoint, method.
        bytes, bytes_zstd: of all its tensors, packed, and after zstd.
        bits_per_weight: of its quantized layers; of all weights, if it is not quantized.
        losses, tokens: sums by document, (documents,): nats after quantization, and tokens.
    """

    cell: tuple[str, str, str]
    bytes: int
    bytes_zstd: int
    bits_per_weight: float
    losses: np.ndarray
    tokens: np.ndarray

    @property
    def name(self) -> str:
        """As in column `runner_up`."""
        return "/".join(self.cell)


def choose(candidates: list[Candidate], confidence: float) -> list[dict]:
    """Judge candidates that were measured on the same documents in the same order; four documents or more.

    Args:
        candidates: all of them, of one run.
        confidence: coverage of intervals.

    Returns:
        A row each, in their order, with the columns of CHOICES but study, run and dataset. One half of the documents
        chooses: on_front, that none of at most its bytes has a lower loss, and for those on the front runner_up, the
        next best of at most its bytes. The other half judges: loss with its interval; best_probability, in what share
        of resampled documents none of at most its bytes has a lower loss, a tie of n counting as 1 / n; regret, how
        much higher the loss of the runner-up is, with a paired interval.
    """
    losses, tokens = (np.stack([getattr(one, name) for one in candidates]) for name in ("losses", "tokens"))
    chosen_by = intervals.mean(losses[:, ::2], tokens[:, ::2])
    losses, tokens = losses[:, 1::2], tokens[:, 1::2]
    sizes = np.array([one.bytes for one in candidates])
    on_front = front(sizes, chosen_by)
    found, influence = intervals.jackknife(lambda means: means, losses, tokens)
    bounds = intervals.document_interval(found, influence, confidence)
    probability = best_probability(sizes, bootstrap_means(losses, tokens, DRAWS, seed=0))
    rows = []
    for index, one in enumerate(candidates):
        row = dict(zip(KEYS, one.cell, strict=True))
        row |= {name: getattr(one, name) for name in ("bytes", "bytes_zstd", "bits_per_weight")}
        row |= {"loss": found[index], "loss_lower": bounds[0][index], "loss_upper": bounds[1][index]}
        row |= {"on_front": index in on_front, "best_probability": probability[index]}
        others = [other for other in range(len(candidates)) if other != index and sizes[other] <= sizes[index]]
        if index in on_front and others:
            second = min(others, key=lambda other: chosen_by[other])
            pair = influence[second] - influence[index]
            regret = found[second] - found[index]
            lower, upper = intervals.document_interval(regret, pair, confidence)
            row |= {"runner_up": candidates[second].name, "regret": regret}
            row |= {"regret_lower": lower, "regret_upper": upper}
        rows.append(row)
    return rows


def front(sizes: np.ndarray, losses: np.ndarray) -> list[int]:
    """The Pareto front, smallest first: candidates whose loss is lower than that of all others of at most their size.

    Of candidates with the same size and loss the first one.
    """
    found, lowest = [], np.inf
    for index in np.lexsort((losses, sizes)):
        if losses[index] < lowest:
            found.append(int(index))
            lowest = losses[index]
    return found


def best_probability(sizes: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """In what share of draws a candidate has the lowest loss of those of at most its size; ties are divided.

    Args:
        sizes: (candidates,).
        draws: losses, (draws, candidates).
    """
    found = np.empty(len(sizes))
    for size in np.unique(sizes):
        here, allowed = sizes == size, sizes <= size
        lowest = draws[:, allowed] == draws[:, allowed].min(axis=1, keepdims=True)
        shares = np.zeros((len(draws), len(sizes)))
        shares[:, allowed] = lowest / lowest.sum(axis=1, keepdims=True)
        found[here] = shares.mean(axis=0)[here]
    return found


# --- the table -------------------------------------------------------------------------------------------------------


def choices_table(
    study: str,
    measures: Iterable[Measure],
    points: dict[tuple[str, str], dict],
    recipes: dict[tuple[str, str, str], dict],
    roots: dict[str, str],
    confidence: float,
) -> pl.DataFrame:
    """The table `choices`: a row each candidate, run and dataset, by size and then loss.

    Of draws of calibration text the first alone is a candidate: to take the luckiest of several is another method.
    Candidates of a run that were not measured on the same tokens as its most trained one are left out, and so is what
    has no size, such as a checkpoint of which nothing was quantized.

    Args:
        study: its name.
        measures: whole or in parts; read are losses over all tokens.
        points: what is known of each checkpoint: step, tokens, parameters.
        recipes: manifests of quantized cells.
        roots: of each trajectory the trunk that it descends from, which names the run.
        confidence: coverage of intervals.
    """
    sizes, groups = sizes_of_cells(points, recipes), defaultdict(dict)
    for item in measures:
        if (item.metric, item.subset) == (CROSS_ENTROPY.name, None) and item.cell in sizes:
            groups[roots[item.cell[0]], item.dataset][item.cell] = item
    rows = []
    for (run, dataset), items in groups.items():
        near = near_end({cell[:2]: points[cell[:2]] for cell in items})
        latest = items[max((cell for cell in items if cell[:2] in near), key=lambda cell: _place(points, cell))]
        chosen = [item for cell, item in items.items() if cell[:2] in near and _same(item, latest)]
        if len(latest.documents) >= 4:
            candidates = [Candidate(item.cell, *sizes[item.cell], item.sums, item.sizes) for item in chosen]
            about = {"study": study, "run": run, "dataset": dataset}
            rows += [about | row for row in choose(candidates, confidence)]
    found = pl.DataFrame([[row.get(name) for name in CHOICES] for row in rows], CHOICES, orient="row", strict=False)
    return found.with_columns(pl.col(pl.Float64).fill_nan(None)).sort(
        "run", "dataset", "bytes", "loss", *KEYS, nulls_last=True
    )


def sizes_of_cells(points: dict, recipes: dict) -> dict[tuple[str, str, str], tuple[int, int, float]]:
    """Bytes, bytes after zstd and bits a weight of each cell, as the manifests of quantized ones tell them."""
    found = {}
    for cell, manifest in recipes.items():
        if manifest["status"] != "ok" or manifest["draw"] not in (None, 1):
            continue
        sizes, parameters = manifest["sizes"], points[cell[:2]]["parameters"]
        found[cell] = (sizes["packed"], sizes["packed_zstd"], manifest["bits_per_weight"])
        plain = sizes["unquantized"]
        found[*cell[:2], BASELINE] = (plain, sizes["unquantized_zstd"], 8 * plain / parameters)
    return found


def near_end(points: dict[tuple[str, str], dict]) -> set[tuple[str, str]]:
    """Checkpoints of a run with at least NEAR_END of its most tokens, and the last of each of its trajectories."""
    last = {}
    for point in sorted(points, key=lambda point: points[point]["step"]):
        last[point[0]] = point
    most = max(known["tokens"] or 0 for known in points.values())
    return {*last.values(), *(point for point, known in points.items() if (known["tokens"] or 0) >= NEAR_END * most)}


def _place(points: dict, cell: tuple[str, str, str]) -> tuple:
    return points[cell[:2]]["tokens"] or 0, cell


def _same(one: Measure, other: Measure) -> bool:
    return np.array_equal(one.documents, other.documents) and np.array_equal(one.sizes, other.sizes)


# --- in words --------------------------------------------------------------------------------------------------------


def sentences(choices: pl.DataFrame) -> list[str]:
    """What to ship, in words: a sentence for each size at which the choice changes, smallest first."""
    labels = {_name(row): _label(row) for row in choices.iter_rows(named=True)}
    several = choices.select("run", "dataset").n_unique() > 1
    told = []
    for row in choices.filter("on_front").iter_rows(named=True):
        start = f"{row['run']} on {row['dataset']}, up to" if several else "Up to"
        told.append(f"{start} {row['bits_per_weight']:.3g} bits a weight ({_size(row)}): {_choice(row, labels)}")
    return told


def _choice(row: dict, labels: dict[str, str]) -> str:
    first, loss = labels[_name(row)], f"loss {row['loss']:.4f}{_bounds(row, 'loss', '.4f')}"
    if row["runner_up"] is None:
        return f"{first}, {loss}; nothing else is as small."
    second = labels[row["runner_up"]]
    if row["regret_lower"] is not None and row["regret_lower"] > 0:
        worse = f"{row['regret']:.4f}{_bounds(row, 'regret', '.4f')}"
        return f"{first}, {loss}; next best {second}, worse by {worse} nats a token."
    regret = f"{row['regret']:+.4f}{_bounds(row, 'regret', '+.4f')} nats a token"
    chance = f"best with a probability of {row['best_probability']:.2f}"
    return f"{first} ({loss}; {chance}) or {second} ({regret}): these documents do not tell which is better."


def _name(row: dict) -> str:
    return "/".join(row[key] for key in KEYS)


def _label(row: dict) -> str:
    by = "unquantized" if row["method"] == BASELINE else f"by {row['method']}"
    return f"{row['checkpoint']} of {row['trajectory']} {by}"


def _bounds(row: dict, name: str, form: str) -> str:
    lower, upper = row[f"{name}_lower"], row[f"{name}_upper"]
    return "" if lower is None or upper is None else f" [{lower:{form}}, {upper:{form}}]"


def _size(row: dict) -> str:
    return " and ".join(
        f"{count / 1e9:.3g} GB{after}" if count >= 1e9 else f"{count / 1e6:.3g} MB{after}"
        for count, after in ((row["bytes"], ""), (row["bytes_zstd"], " after zstd"))
    )
