"""What a study consists of: its trajectories, checkpoints, links and cells, worked out from the config alone."""

from dataclasses import dataclass, field
from pathlib import Path

from scripts.lib.data import suites
from scripts.lib.runtime.config_files import ConfigError, read_yaml, require_name, validate
from scripts.lib.study.claims import add_claims
from scripts.lib.study.config import add_corpus, refuse_moved_sections, require_one_study, require_study
from scripts.lib.study.draws import Method, methods_of
from scripts.lib.study.lineage import lineage
from scripts.lib.study.needs import corpora_of_documents
from scripts.lib.study.paths import Paths
from scripts.lib.study.preflight import set_aside_refused
from scripts.lib.study.recipes import load_recipe
from scripts.lib.study.replicates import neighbours
from scripts.lib.study.scales import scaled
from scripts.lib.study.selection import select
from scripts.lib.study.trajectories.base import Trajectory
from scripts.lib.study.trajectories.families import Families, Family
from scripts.lib.study.trajectories.reading import add_trajectories

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

    folder: the folder that holds trajectories/, recipes/, corpora/, tokenizers/, studies/ and tasks/.
    trajectories: by name, with all that they derive from.
    families: the family of each trajectory.
    corpora, tokenizers: by name, those that the study uses, as in their files.
    methods: by name, without the baseline.
    recipes: what the files of the methods' recipes hold, by method; all draws of a recipe have the same.
    losses: corpora by cell. tasks: suites by cell. Both have an entry, maybe empty, for every cell of the study.
    slices: corpora by cell, on which the way to its weights is measured, and for the baseline its layers' statistics.
    refused: cells that are left out of the work because their method does not fit their model, with the reason.
    neighbours: groups of (trajectory, checkpoint) that tell how checkpoints of a stable phase scatter.
    claims: by name, as `add_claims` reads them.
    suites: by name, what `suites.describe` says of them: files of their tasks and of their documents, and the like.
    """

    config: dict
    folder: Path = Path("config")
    trajectories: dict[str, Trajectory] = field(default_factory=dict)
    families: dict[str, Family] = field(default_factory=dict)
    corpora: dict[str, dict] = field(default_factory=dict)
    tokenizers: dict[str, dict] = field(default_factory=dict)
    methods: dict[str, Method] = field(default_factory=dict)
    recipes: dict[str, dict] = field(default_factory=dict)
    losses: dict[Cell, list[str]] = field(default_factory=dict)
    tasks: dict[Cell, list[str]] = field(default_factory=dict)
    slices: dict[Cell, list[str]] = field(default_factory=dict)
    suites: dict[str, dict] = field(default_factory=dict)
    claims: dict[str, dict] = field(default_factory=dict)
    refused: dict[Cell, str] = field(default_factory=dict)
    neighbours: list[list[tuple[str, str]]] = field(default_factory=list)

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

    def evaluations(self, cell: Cell) -> list[tuple[str, str, str]]:
        """(stage, corpus or suite, table) of all that is measured of a cell."""
        paths, names = self.paths, cell.names
        losses = [("evaluate_loss", name, paths.loss(*names, corpus=name)) for name in self.losses[cell]]
        if cell.method == BASELINE:
            slices = [("describe_layers", name, paths.layers(*names[:2], name)) for name in self.slices.get(cell, [])]
        else:
            slices = [("slice", name, paths.slice(*names, corpus=name)) for name in self.slices.get(cell, [])]
        tasks = [("evaluate_tasks", name, paths.tasks(*names, suite=name)) for name in self.tasks[cell]]
        return losses + tasks + slices

    def circumstances(self) -> list[dict]:
        """The place of every checkpoint in its training, as `tabulate` takes it: step, tokens, learning rate, phase."""
        return [self.trajectories[name].describe(step) for name, step in self.checkpoints]

    def lineage(self) -> list[dict]:
        """Where each trajectory comes from and what it holds fixed, as `tabulate` takes it."""
        return lineage(self)

    def refused_cells(self) -> list[dict]:
        """The cells that were refused while the study was planned, with the reason, as `tabulate` takes them."""
        names = ("trajectory", "checkpoint", "method")
        return [
            dict(zip(names, cell.names, strict=True)) | {"reason": reason}
            for cell, reason in sorted(self.refused.items())
        ]

    def by_source(self, source: str) -> list[str]:
        """Names of the trajectories of one source, branches counting as trained."""
        return [name for name, trajectory in self.trajectories.items() if trajectory.source == source]

    def locked_tokenizer(self, tokenizer: str) -> dict | None:
        """Commit and files of a published tokenizer, where a lock has them."""
        found = (self.trajectories[name] for name in self.by_source("hub"))
        locks = [trajectory.lock for trajectory in found if trajectory.tokenizer == tokenizer]
        return next((lock["tokenizer"] for lock in locks if lock.get("tokenizer")), None)

    def tokenizer_definition(self, tokenizer: str) -> dict:
        """Where a tokenizer comes from, as a trajectory that has it says."""
        having = (run for run in self.trajectories.values() if run.tokenizer == tokenizer)
        return next(having).tokenizer_definition

    def schedules(self, points: int = 400) -> list[dict]:
        """Steps, tokens and learning rates of every trained or published run of the study, fine enough to be drawn."""
        names = sorted({cell.trajectory for cell in self.losses})
        return [curve for name in names if (curve := self.trajectories[name].curve(points))]

    def training_logs(self) -> list[dict]:
        """Of every run that is trained here: trajectory, tokens_per_step, and `files`, the logs of its links."""
        runs = (self.trajectories[name] for name in self.by_source("train"))
        return [
            {
                **{"trajectory": run.name, "tokens_per_step": run.tokens_per_step},
                "files": [f"{self.paths.link(run.name, link)}/log.parquet" for link in run.links],
            }
            for run in runs
        ]


def make_plan(config: dict, folder: Path | str = "config") -> Plan:
    """Check the config and work the study out.

    Args:
        config: the merged Snakemake config, at its scale (`scales.scaled`).
        folder: as of the `Plan`.

    Raises:
        ConfigError: anything that is wrong in what the user wrote, before any work starts.
    """
    folder = Path(folder)
    require_study(config, folder / "studies")
    refuse_moved_sections(config, folder)
    validate(config, "config", "config")
    validate(config["study"], "study", "study")
    plan = Plan(config, folder)
    families = Families(folder / "trajectories", config.get("scale"))
    add_corpus(plan, config["quantize"]["probe"]["corpus"], "calibration", "config: quantize.probe.corpus")
    for number, block in enumerate(config["study"]["cells"]):
        where = f"study `{config['study']['name']}`, cells.{number}"
        names = [name for given in block["trajectories"] for name in add_trajectories(plan, given, families, where)]
        methods = [BASELINE, *_add_methods(plan, block, where)]
        for key in ("loss", "slices"):
            for corpus in block.get(key, []):
                add_corpus(plan, corpus, "validation", f"{where}.{key}")
        for suite in block.get("tasks", []):
            _add_suite(plan, suite, folder / "tasks", where)
        _add_cells(plan, names, block, methods, where)
    set_aside_refused(plan)
    plan.neighbours = neighbours(plan)
    add_claims(plan)
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
    return make_plan(scaled(config))


def config_files(study: str = "", *more: str) -> list[Path]:
    """The files that make a study's config, after config/default.yaml: its own and further ones.

    Raises:
        ConfigError: there is no such study.
    """
    path = Path(f"config/studies/{study}.yaml")
    require_name(study, [found.stem for found in path.parent.glob("*.yaml")], "study", "STUDY=NAME")
    require_one_study((path, *more))
    return [path, *map(Path, more)]


def _add_methods(plan: Plan, block: dict, where: str) -> list[str]:
    """Read the recipes of a block into a plan; names of its methods, one for each draw of calibration text."""
    added = []
    for name in block["methods"]:
        if name != BASELINE:
            recipe = load_recipe(plan.folder / "recipes", name)
            added += methods_of(name, recipe, block.get("draws", 1))
            plan.recipes |= {method.name: recipe for method in added if method.recipe == name}
            if "calibration" in recipe:
                corpus = recipe["calibration"]["corpus"]
                add_corpus(plan, corpus, "calibration", f"{plan.folder}/recipes/{name}.yaml, calibration.corpus")
    if "draws" in block and all(method.draw is None for method in added):
        names = ", ".join(f"`{name}`" for name in block["methods"])
        raise ConfigError(
            f"{where}.draws: {block['draws']}: {names} use no calibration text to draw: leave `draws` out"
        )
    plan.methods |= {method.name: method for method in added}
    return [method.name for method in added]


def _add_suite(plan: Plan, name: str, folder: Path, where: str) -> None:
    known = [path.stem.removeprefix("suite-") for path in folder.glob("suite-*.yaml")]
    require_name(name, known, "suite", f"{where}.tasks")
    try:
        plan.suites[name] = suites.describe(folder / f"suite-{name}.yaml")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for corpus in corpora_of_documents(map(Path, plan.suites[name]["documents"])):
        add_corpus(plan, corpus, "validation", f"{folder}/suite-{name}.yaml, tasks' documents")


def _add_cells(plan: Plan, names: list[str], block: dict, methods: list[str], where: str) -> None:
    for name in names:
        try:
            trajectory = plan.trajectories[name]
            rows = [trajectory.describe(step) for step in trajectory.steps]
            chosen = select(rows, block.get("checkpoints", "all"))
        except ValueError as error:
            raise ConfigError(f"{where}.checkpoints: trajectory `{name}`: {error}") from error
        for step in chosen:
            for method in methods:
                cell = Cell(name, step, method)
                for target, key in ((plan.losses, "loss"), (plan.tasks, "tasks"), (plan.slices, "slices")):
                    known = target.setdefault(cell, [])
                    known.extend(value for value in block.get(key, []) if value not in known)
