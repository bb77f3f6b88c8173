"""What a study consists of: its trajectories, checkpoints, links and cells, worked out from the config alone."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scripts.lib.cluster import disk
from scripts.lib.data import suites
from scripts.lib.runtime.config_files import ConfigError, read_yaml, require_name, validate
from scripts.lib.study import schedules
from scripts.lib.study.config import require_split, require_study
from scripts.lib.study.paths import Paths
from scripts.lib.study.recipes import load_recipe
from scripts.lib.study.selection import select
from scripts.lib.study.sizes import Model, size_of_folder, size_of_model, size_of_published
from scripts.lib.study.trajectories import add_trajectory

BASELINE = "none"


@dataclass(frozen=True, order=True)
class Cell:
    """(trajectory, checkpoint, method): the unit of work; `step` says which checkpoint."""

    trajectory: str
    step: int
    method: str

    @property
    def checkpoint(self) -> str:
        return f"step-{self.step}"

    @property
    def names(self) -> tuple[str, str, str]:
        """Trajectory, checkpoint and method, as its places are made of them."""
        return self.trajectory, self.checkpoint, self.method


@dataclass
class Plan:
    """A study worked out: everything that the rules need to know about it.

    trajectories: by name, with all that they derive from; branches hold what they inherit.
    recipes: by method, without the baseline.
    losses: corpora by cell. tasks: suites by cell. Both have an entry, maybe empty, for every cell of the study.
    waits_for: which checkpoint has to be measured before another is fetched, as `disk.waits_for` says.
    suites: by name, what `suites.describe` says of them: files of their tasks and of their documents, and the like.
    """

    config: dict
    trajectories: dict[str, dict] = field(default_factory=dict)
    recipes: dict[str, dict] = field(default_factory=dict)
    losses: dict[Cell, list[str]] = field(default_factory=dict)
    tasks: dict[Cell, list[str]] = field(default_factory=dict)
    suites: dict[str, dict] = field(default_factory=dict)
    waits_for: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)

    @property
    def paths(self) -> Paths:
        """Where everything that is derived lies."""
        return Paths(**self.config["folders"])

    @property
    def cells(self) -> list[Cell]:
        return sorted(self.losses)

    @property
    def checkpoints(self) -> list[tuple[str, int]]:
        return sorted({(cell.trajectory, cell.step) for cell in self.losses})

    def by_source(self, source: str) -> list[str]:
        """Names of the trajectories of one source, branches counting as trained."""
        return [name for name, trajectory in self.trajectories.items() if trajectory["source"] == source]

    def steps(self, name: str) -> list[int]:
        """All steps at which a trajectory has a checkpoint, ascending."""
        trajectory = self.trajectories[name]
        if trajectory["source"] == "local":
            return sorted(checkpoint["step"] for checkpoint in trajectory["checkpoints"])
        if trajectory["source"] == "hub":
            return [point["step"] for point in trajectory["points"]]
        return sorted(trajectory["keep"])

    def published(self, name: str, step: int) -> dict:
        """A published checkpoint: where, its commit and files where a lock has them (by `name`), pins of its code."""
        trajectory = self.trajectories[name]
        found = next(point["revision"] for point in trajectory["points"] if point["step"] == step)
        repo = trajectory["repo"].replace("{revision}", found)  # where each checkpoint is a repository
        return {
            "repo": repo,
            "name": found,
            "revision": found if repo == trajectory["repo"] else "main",
            "locked": trajectory["lock"]["revisions"].get(found),
            "remote_code": trajectory.get("remote_code", {}),
        }

    def locked_tokenizer(self, tokenizer: str) -> dict | None:
        """Commit and files of a published tokenizer, where a lock has them."""
        locks = [self.trajectories[name]["lock"] for name in self.by_source("hub") if self.tokenizer(name) == tokenizer]
        return next((lock["tokenizer"] for lock in locks if lock.get("tokenizer")), None)

    def links(self, name: str) -> dict[str, dict]:
        """A controlled run as a chain of links: name -> start, end, keep, restart (state kept at the end), parent.

        A link is named after its start, so that extending a run does not rename what is finished. `parent` is
        (trajectory, link) or None.
        """
        run = self.trajectories[name]
        first = run["branch"]["step"] if "branch" in run else 0
        last = max(run["keep"] + run["restart"])
        ends = sorted({step for step in run["restart"] if step > first} | {last})
        links = {}
        parent = self._link_ending(run["branch"]["from"], first) if first else None
        for start, end in zip([first, *ends], ends, strict=False):
            keep = sorted(step for step in run["keep"] if start < step <= end)
            link = {"start": start, "end": end, "keep": keep, "restart": end in run["restart"]}
            links[f"from-{start}"] = link | {"parent": parent}
            parent = (name, f"from-{start}")
        return links

    def link_of(self, name: str, step: int) -> str:
        """Name of the link that keeps a step of a controlled run."""
        return next(link for link, content in self.links(name).items() if step in content["keep"])

    def members(self, name: str, step: int) -> list[int]:
        """Steps of the checkpoints that one average is made of, ascending."""
        average = self.trajectories[name]
        return [step - back * average["stride"] for back in reversed(range(average["window"]))]

    def local_path(self, name: str, step: int) -> str:
        """Folder of one checkpoint of a local trajectory, as the user wrote it."""
        return next(c["path"] for c in self.trajectories[name]["checkpoints"] if c["step"] == step)

    def tokenizer(self, name: str) -> str:
        """Name of the tokenizer of a trajectory; a local one is named after the trajectory, a hub's after its repo."""
        trajectory = self.trajectories[name]
        if trajectory["source"] == "average":
            return self.tokenizer(trajectory["of"])
        if trajectory["source"] == "hub":
            return trajectory["tokenizer_repo"].replace("/", "--")
        return trajectory.get("tokenizer", name)

    def tokenizer_definition(self, tokenizer: str) -> dict:
        """Where a tokenizer comes from: the config's entry, or the first folder of a local trajectory."""
        if tokenizer in self.config["tokenize"]:
            return self.config["tokenize"][tokenizer]
        if tokenizer in self.trajectories:
            return {"source": "model", "path": self.trajectories[tokenizer]["checkpoints"][0]["path"]}
        return {"source": "hub", "repo": tokenizer.replace("--", "/", 1)}

    def model(self, name: str) -> Model:
        """Sizes of a trajectory's model; of local folders, from the headers of the first."""
        trajectory = self.trajectories[name]
        if trajectory["source"] == "average":
            return self.model(trajectory["of"])
        if trajectory["source"] == "local":
            return size_of_folder(trajectory["checkpoints"][0]["path"])
        if trajectory["source"] == "hub":
            return size_of_published(trajectory["model"])
        return size_of_model(trajectory["model"], self.config["tokenize"][trajectory["tokenizer"]])

    def describe(self, name: str, step: int) -> dict:
        """One row of the `checkpoints` table, as far as the config tells it."""
        trajectory = self.trajectories[name]
        row = {"trajectory": name, "checkpoint": f"step-{step}", "source": trajectory["source"], "step": step}
        if trajectory["source"] == "average":
            newest = self.describe(trajectory["of"], step)
            return newest | row | {"parent": trajectory["of"], "phase": "average"}
        if trajectory["source"] == "local":
            return row | {"parent": None} | _local_circumstances(trajectory, step)
        if trajectory["source"] == "hub":
            point = next(point for point in trajectory["points"] if point["step"] == step)
            parent = trajectory["after"]["trajectory"] if "after" in trajectory else None
            names = ("tokens", "learning_rate", "phase")
            known = {"parent": parent, "peak_learning_rate": schedules.peak(trajectory["schedule"])}
            return row | known | {name: point[name] for name in names}
        schedule = trajectory["schedule"]
        return row | {
            "parent": "{from}/step-{step}".format(**trajectory["branch"]) if "branch" in trajectory else None,
            "tokens": int(schedules.tokens(step, tokens_per_step(trajectory))),
            "learning_rate": float(schedules.learning_rate(schedule, step)),
            "peak_learning_rate": schedules.peak(schedule),
            "phase": str(schedules.phase(schedule, step)),
        }

    def schedules(self, points: int = 400) -> list[dict]:
        """Steps, tokens and learning rates of every trained or published run of the study, fine enough to be drawn."""
        curves, known = [], {*self.by_source("train"), *self.by_source("hub")}
        for name in sorted({cell.trajectory for cell in self.losses} & known):
            run = self.trajectories[name]
            before = run.get("before", {"step": 0, "tokens": 0})  # what came before the run's own first step
            first = run["branch"]["step"] if "branch" in run else 0
            steps = np.unique(np.linspace(first, self.steps(name)[-1] - before["step"], points).astype(int))
            tokens = before["tokens"] + schedules.tokens(steps, tokens_per_step(run))
            rates = schedules.learning_rate(run["schedule"], steps).tolist()
            steps = (before["step"] + steps).tolist()
            curves.append({"trajectory": name, "steps": steps, "tokens": tokens.tolist(), "learning_rate": rates})
        return curves

    def _link_ending(self, name: str, step: int) -> tuple[str, str]:
        return name, next(link for link, content in self.links(name).items() if content["end"] == step)


def make_plan(config: dict, folder: Path | str = "config") -> Plan:
    """Check the config and work the study out.

    Args:
        config: the merged Snakemake config.
        folder: the folder that holds trajectories/, recipes/, studies/ and tasks/.

    Raises:
        ConfigError: anything that is wrong in what the user wrote, before any work starts.
    """
    folder = Path(folder)
    require_study(config, folder / "studies")
    validate(config, "config", "config")
    validate(config["study"], "study", "study")
    require_split(config["quantize"]["probe"]["corpus"], "calibration", config, "config: quantize.probe.corpus")
    plan = Plan(config)
    for number, block in enumerate(config["study"]["cells"]):
        where = f"study `{config['study']['name']}`, cells.{number}"
        for name in block["trajectories"]:
            add_trajectory(plan, name, folder / "trajectories", where)
        methods = [BASELINE, *(method for method in block["methods"] if method != BASELINE)]
        for method in methods[1:]:
            plan.recipes[method] = load_recipe(folder / "recipes", method)
            if "calibration" in plan.recipes[method]:
                corpus = plan.recipes[method]["calibration"]["corpus"]
                require_split(corpus, "calibration", config, f"{folder}/recipes/{method}.yaml, calibration.corpus")
        for corpus in block.get("loss", []):
            require_split(corpus, "validation", config, f"{where}.loss")
        for suite in block.get("tasks", []):
            _add_suite(plan, suite, folder / "tasks", where)
        _add_cells(plan, block, methods, where)
    plan.waits_for = disk.waits_for(plan)
    return plan


def load_plan(study: str = "", *more: str) -> Plan:
    """The plan of config/studies/{study}.yaml and further config files, as Snakemake would read them.

    Raises:
        ConfigError: there is no such study, or what the user wrote is wrong.
    """
    from snakemake.utils import update_config

    config = read_yaml("config/default.yaml")
    for file in config_files(study, *more):
        update_config(config, read_yaml(file))
    return make_plan(config)


def config_files(study: str = "", *more: str) -> list[Path]:
    """The files that make a study's config, after config/default.yaml: its own and further ones.

    Raises:
        ConfigError: there is no such study.
    """
    path = Path(f"config/studies/{study}.yaml")
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.yaml")))
        raise ConfigError(f"{path} does not exist; say STUDY=NAME, where NAME is one of: {known}")
    return [path, *map(Path, more)]


def _add_suite(plan: Plan, name: str, folder: Path, where: str) -> None:
    known = [path.stem.removeprefix("suite-") for path in folder.glob("suite-*.yaml")]
    require_name(name, known, "suite", f"{where}.tasks")
    try:
        plan.suites[name] = suites.describe(folder / f"suite-{name}.yaml")
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _add_cells(plan: Plan, block: dict, methods: list[str], where: str) -> None:
    for name in block["trajectories"]:
        try:
            rows = [plan.describe(name, step) for step in plan.steps(name)]
            chosen = select(rows, block.get("checkpoints", "all"))
        except ValueError as error:
            raise ConfigError(f"{where}.checkpoints: trajectory `{name}`: {error}") from error
        for step in chosen:
            for method in methods:
                cell = Cell(name, step, method)
                for target, key in ((plan.losses, "loss"), (plan.tasks, "tasks")):
                    known = target.setdefault(cell, [])
                    known.extend(value for value in block.get(key, []) if value not in known)


def tokens_per_step(run: dict) -> int | list[dict]:
    """Tokens an optimizer step of a trained or a published run."""
    return run["tokens_per_step"] if run["source"] == "hub" else run["batch_size"] * run["window"]


def _local_circumstances(trajectory: dict, step: int) -> dict:
    given = next(checkpoint for checkpoint in trajectory["checkpoints"] if checkpoint["step"] == step)
    schedule = trajectory.get("schedule")
    rates = [c["learning_rate"] for c in trajectory["checkpoints"] if "learning_rate" in c]
    return {
        "tokens": given["tokens"] if "tokens" in given else step * trajectory["tokens_per_step"],
        "learning_rate": given.get(
            "learning_rate", float(schedules.learning_rate(schedule, step)) if schedule else None
        ),
        "peak_learning_rate": schedules.peak(schedule) if schedule else max(rates),
        "phase": given.get("phase", str(schedules.phase(schedule, step)) if schedule else None),
    }
