"""Trained trajectories: controlled runs, and branches that go on from one."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from scripts.lib.runtime.config_files import ConfigError, ordered
from scripts.lib.study import schedules
from scripts.lib.study.config import add_corpus, add_tokenizer
from scripts.lib.study.sizes import DTYPES, Model, size_of_model
from scripts.lib.study.trajectories.base import Trajectory, draw, scalars

BATCH = ("window", "batch_size", "micro_batch_size")
SHAPING = (*BATCH, "optimizer", "schedule", "seed", "precision")  # the weights, besides the model itself
INHERITED = ("corpus", "tokenizer", *BATCH, "optimizer", "seed", "data_seed", "precision")  # by a branch, and the model
OF_SCHEDULES = ("peak", "warmup")  # inherited by a branch's schedule


@dataclass(frozen=True, eq=False)
class Trained(Trajectory):
    """A controlled run, trained by the workflow.

    shape: the model's, in the names of transformers' config classes.
    keep, restart: steps of checkpoints, and of states that something starts from.
    data_seed: of the order of the data, where `seed` is not.
    parent, start: the run that a branch goes on from, and its step there; None and 0 for a run of its own.
    The rest is as in its file, or as a branch inherits it.
    """

    source: ClassVar[str] = "train"
    origin_key: ClassVar[str] = "branch.from"
    shape: dict
    corpus: str
    tokenizer: str
    tokenizer_definition: dict
    window: int
    batch_size: int
    micro_batch_size: int | None
    optimizer: dict
    schedule: dict
    seed: int
    precision: str
    keep: list[int]
    restart: list[int]
    data_seed: int | None = None
    parent: "Trained | None" = None
    start: int = 0

    @classmethod
    def inherits(cls, key: str) -> bool:
        section, _, rest = key.partition(".")
        return section in (*INHERITED, "model") or (section == "schedule" and rest in OF_SCHEDULES)

    @classmethod
    def complete(cls, content: dict, origin: Trajectory | None, path: Path) -> dict:
        """A branch changes single settings of the optimizer, and may keep peak and warm-up of the schedule."""
        if not isinstance(origin, Trained):
            return content
        schedule, above = content["schedule"], origin.schedule
        if schedule["name"] != "piecewise":
            kept = {key: above[key] for key in OF_SCHEDULES if key in above}
            missing = [key for key in OF_SCHEDULES if key not in kept | schedule]
            if missing:
                raise ConfigError(f"{path}: give `schedule.{missing[0]}`: the schedule of `{origin.name}` has none")
            schedule = kept | schedule
        optimizer = origin.optimizer | content.get("optimizer", {})
        return ordered(content | {"schedule": schedule, "optimizer": optimizer})

    @classmethod
    def read(cls, name: str, content: dict, path: Path, plan, origin: Trajectory | None) -> "Trained":
        start = 0
        if origin:
            start = content["branch"]["step"]
            _check_branch(content, start, origin, path)
            content = {"model": origin.shape} | {key: getattr(origin, key) for key in INHERITED} | content
        add_corpus(plan, content["corpus"], "train", f"{path}, corpus")
        add_tokenizer(plan, content["tokenizer"], f"{path}, tokenizer")
        content = {"micro_batch_size": None, "restart": [], "data_seed": None} | content
        run = cls(
            name,
            shape=content["model"],
            tokenizer_definition=plan.tokenizers[content["tokenizer"]],
            parent=origin,
            start=start,
            **{key: content[key] for key in (*INHERITED, "schedule", "keep", "restart")},
        )
        _check(run, path, plan.config)
        return run

    @property
    def steps(self) -> list[int]:
        return sorted(self.keep)

    @property
    def run_seed(self) -> int:
        return self.parent.run_seed if self.parent else self.seed

    @cached_property
    def model(self) -> Model:
        return size_of_model(self.shape, self.tokenizer_definition)

    @property
    def widths(self) -> dict[str, int]:
        return {key: self.shape[key] for key in ("hidden_size", "intermediate_size")}

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.window

    def checkpoint_bytes(self, step: int) -> tuple[int, str]:
        return self.model.parameters * DTYPES["float32"], "estimate"

    def circumstances(self, step: int) -> dict:
        return {
            "parent": f"{self.parent.name}/step-{self.start}" if self.parent else None,
            "tokens": int(schedules.tokens(step, self.tokens_per_step)),
            "learning_rate": float(schedules.learning_rate(self.schedule, step)),
            "peak_learning_rate": schedules.peak(self.schedule),
            "phase": str(schedules.phase(self.schedule, step)),
        }

    def curve(self, points: int) -> dict:
        return draw(self, self.start, self.steps[-1], {"step": 0, "tokens": 0}, points)

    @property
    def shaping(self) -> dict:
        """What shapes the weights, without what is kept of them."""
        shaping = {"model": self.shape} | {key: getattr(self, key) for key in SHAPING}
        return shaping if self.data_seed is None else shaping | {"data_seed": self.data_seed}

    @property
    def came_from(self) -> tuple["Trained | None", int | None]:
        return self.parent, self.start if self.parent else None

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        own = {key: getattr(self, key) for key in (*INHERITED, "schedule")} | {"model": self.shape}
        own["optimizer"] = {"name": "adamw"} | self.optimizer
        if self.data_seed is None:
            own["data_seed"] = self.seed
        return scalars(own | ({"branch": {"step": self.start}} if self.parent else {}))

    @cached_property
    def links(self) -> dict[str, dict]:
        """The run as a chain of links: name -> start, end, keep, restart (state kept at the end), parent.

        A link is named after its start, so that extending a run does not rename what is finished. `parent` is
        (trajectory, link) or None.
        """
        last = max(self.keep + self.restart)
        ends = sorted({step for step in self.restart if step > self.start} | {last})
        links = {}
        parent = (self.parent.name, self.parent.link_ending(self.start)) if self.parent else None
        for start, end in zip([self.start, *ends], ends, strict=False):
            keep = sorted(step for step in self.keep if start < step <= end)
            link = {"start": start, "end": end, "keep": keep, "restart": end in self.restart}
            links[f"from-{start}"] = link | {"parent": parent}
            parent = (self.name, f"from-{start}")
        return links

    def link_of(self, step: int) -> str:
        """Name of the link that keeps a step."""
        return next(link for link, content in self.links.items() if step in content["keep"])

    def link_ending(self, step: int) -> str:
        """Name of the link that ends at a restart point."""
        return next(link for link, content in self.links.items() if content["end"] == step)


def _check(run: Trained, path: Path, config: dict) -> None:
    if run.batch_size % (run.micro_batch_size or run.batch_size):
        raise ConfigError(
            f"{path}: micro_batch_size {run.micro_batch_size} does not divide batch_size {run.batch_size}"
        )
    processes = config["train"]["processes"]
    if run.batch_size % processes:
        raise ConfigError(
            f"{path}: batch_size {run.batch_size} is no multiple of train.processes, which is {processes}; change one"
        )
    if run.shape["hidden_size"] % run.shape["num_attention_heads"]:
        raise ConfigError(f"{path}: model.num_attention_heads does not divide model.hidden_size")
    if run.window < config["evaluate_loss"]["window"]:
        raise ConfigError(
            f"{path}: window {run.window} is shorter than evaluate_loss.window {config['evaluate_loss']['window']}: "
            "the model never saw such long contexts; lower evaluate_loss.window"
        )
    end = schedules.decay_end(run.schedule)
    last = max(run.keep + run.restart)
    if last > end:
        raise ConfigError(
            f"{path}: step {last} lies after the schedule's end at step {end:g}; train less or move the end"
        )


def _check_branch(content: dict, start: int, parent: Trajectory, path: Path) -> None:
    if not isinstance(parent, Trained):
        raise ConfigError(
            f"{path}: branch.from: `{parent.name}` is not trained by the workflow, so nothing can go on from it"
        )
    if start not in parent.restart:
        kept = ", ".join(map(str, sorted(parent.restart))) or "none"
        raise ConfigError(
            f"{path}: branch.step: `{parent.name}` keeps no restart point at step {start} (it keeps: {kept}); "
            f"add {start} to `restart` of that trajectory"
        )
    early = [step for step in content["keep"] + content.get("restart", []) if step <= start]
    if early:
        raise ConfigError(f"{path}: steps {early} do not lie after the branch's start at step {start}")
