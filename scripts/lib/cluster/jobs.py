"""The jobs of a study, worked out from its plan alone: which there are, how much work each is, whether it is done.

Snakemake plans from its rules and compares contents; this only counts, in a second, and sees a job as done where its
output is there. tests/workflow/test_forecast.py holds the two against each other.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts.lib.cluster import disk, requests
from scripts.lib.study.plan import BASELINE, Cell, Plan

MADE_BY = {"train": "publish", "local": "publish_local", "average": "average", "hub": "fetch"}  # source -> its rule
LOADED = {"quantize": 3, "evaluate_loss": 1, "evaluate_tasks": 1}  # how often weights are moved, as requests.py counts
SOME_PACKAGES = 25  # work of a corpus that is not made of packages: as much as the default one


@dataclass(frozen=True)
class Job:
    """One job.

    stage, names: its rule, and its wildcards in the order of its benchmark's path.
    work: see `Works`.
    loading: seconds that reading and writing weights takes besides.
    trajectory: that it belongs to, if any.
    done: whether its output is there.
    """

    stage: str
    names: tuple[str, ...]
    work: float
    loading: float
    trajectory: str | None
    done: bool


class Works:
    """How much work the jobs of a study are; 0 where only the start of a job counts.

    train, quantize, evaluate_loss, evaluate_tasks: model FLOPs. fetch, publish, average: bytes. corpus, tokenizer,
    tokenize (of a train split): packages. tabulate: cells.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.models = {name: trajectory.model for name, trajectory in plan.trajectories.items()}
        self.tokenizers = {
            *plan.config["tokenize"],
            *(trajectory.tokenizer for trajectory in plan.trajectories.values()),
        }
        self.quantizing = {}

    def of(self, stage: str, names: tuple[str, ...]) -> float:
        """Work of the job of a stage with these wildcards.

        Raises:
            LookupError: the plan has no trajectory, method, link, suite, corpus or tokenizer of that name.
        """
        work = getattr(self, f"_{stage}", None)
        return work(*names) if work else 0.0

    def loading(self, stage: str, names: tuple[str, ...]) -> float:
        """Seconds that the job spends on reading and writing weights, besides its work."""
        return LOADED[stage] * requests.moved(self.models[names[0]]) if stage in LOADED else 0.0

    def _corpus(self, corpus: str) -> float:
        return len(self.plan.config["corpus"][corpus].get("packages", range(SOME_PACKAGES)))

    def _tokenizer(self, tokenizer: str) -> float:
        if tokenizer not in self.tokenizers:
            raise LookupError(tokenizer)
        corpus = self.plan.tokenizer_definition(tokenizer).get("corpus")
        return self._corpus(corpus) if corpus else 0

    def _tokenize(self, tokenizer: str, name: str) -> float:
        self._tokenizer(tokenizer)
        corpus, split = name.rsplit("-", 1)
        return self._corpus(corpus) * (split == "train")

    def _train(self, name: str, link: str) -> float:
        run = self.plan.trajectories[name]
        span = run.links[link]
        tokens = (span["end"] - span["start"]) * run.tokens_per_step
        return requests.train_flops(self.models[name], tokens)

    def _bytes(self, name: str, checkpoint: str) -> float:
        return self.plan.trajectories[name].checkpoint_bytes(int(checkpoint.removeprefix("step-")))[0]

    _fetch = _publish = _publish_local = _bytes

    def _average(self, name: str, checkpoint: str) -> float:
        return self.plan.trajectories[name].window * self._bytes(name, checkpoint)

    def _quantize(self, name: str, checkpoint: str, method: str) -> float:
        if (name, method) not in self.quantizing:
            model, probe = self.models[name], self.plan.config["quantize"]["probe"]
            tokens = requests.quantize_tokens(self.plan.recipes[method], probe, model)
            self.quantizing[name, method] = requests.forward_flops(model, tokens)
        return self.quantizing[name, method]

    def _evaluate_loss(self, name: str, checkpoint: str, method: str, corpus: str) -> float:
        settings = self.plan.config["evaluate_loss"]
        models = 1 if method == BASELINE else 2
        return models * requests.forward_flops(self.models[name], settings["windows"] * settings["window"])

    def _evaluate_tasks(self, name: str, checkpoint: str, method: str, suite: str) -> float:
        asked = requests.documents(self.plan, self.plan.suites[suite])
        return requests.forward_flops(self.models[name], asked * requests.DOCUMENT_TOKENS)

    def _tabulate(self, study: str) -> float:
        return len(self.plan.cells)


def list_jobs(plan: Plan, works: Works | None = None) -> list[Job]:
    """All jobs of a study, as if nothing were there yet; `done` says whether the output of each is.

    Args:
        plan: a worked-out study.
        works: of the same plan, where there is one.
    """
    works, place = works or Works(plan), Path(plan.config["folders"]["resources"])
    jobs = []

    def add(stage: str, *names: str, output: Path, trajectory: str | None = None, done: bool | None = None) -> None:
        done = output.exists() if done is None else done
        jobs.append(Job(stage, names, works.of(stage, names), works.loading(stage, names), trajectory, done))

    tokens = tokens_needed(plan)
    tokenizers = tokenizers_needed(plan, tokens)
    for corpus in corpora_needed(plan, tokens):
        add("corpus", corpus, output=place / "corpora" / corpus / "manifest.json")
    for tokenizer in tokenizers:
        stage = "fetch_tokenizer" if _from_hub(plan, tokenizer) else "tokenizer"
        add(stage, tokenizer, output=place / "tokenizers" / tokenizer / "manifest.json")
    for tokenizer, corpus, split in tokens:
        name = f"{corpus}-{split}"
        add("tokenize", tokenizer, name, output=place / "tokens" / tokenizer / f"{name}.json")
    for corpus in documents_needed(plan):
        add("task_documents", corpus, output=place / "tasks" / corpus / "manifest.json")
    for path in datasets_needed(plan):
        add("fetch_dataset", *path.parts[1:4], output=place / path.with_name("manifest.json"))
    for suite in sorted(suite for suite in _suites_asked(plan) if plan.suites[suite]["datasets"]):
        add("gather_datasets", suite, output=place / "datasets" / f"suite-{suite}.json")
    for name, link in links_needed(plan):
        folder = place / "runs" / name / link
        add("lineage", name, link, output=folder.with_name(f"{link}.json"), trajectory=name)
        add("train", name, link, output=folder, trajectory=name)
    _add_checkpoints(plan, add)
    _add_cells(plan, add)
    _add_study(plan, add)
    return jobs


def _add_checkpoints(plan: Plan, add) -> None:
    folders, cells = plan.config["folders"], defaultdict(list)
    for cell in plan.cells:
        cells[cell.trajectory, cell.step].append(cell)
    for name, step in checkpoints_needed(plan):
        names, made = (name, f"step-{step}"), Path(folders["resources"], "checkpoints", name, f"step-{step}")
        stage = MADE_BY[plan.trajectories[name].source]
        done = (made / "manifest.json").exists()
        if stage == "fetch":
            add("make_room", *names, output=made / "room", trajectory=name)
            tables = (path for cell in cells[name, step] for path in _tables(plan, cell).values())
            done = done and _served(made / "model", tables)
        add(stage, *names, output=made, trajectory=name, done=done)
    for name, step in sorted(set(disk.waits_for(plan).values())):
        mark = Path(folders["results"], "measured", plan.config["study"]["name"], name, f"step-{step}")
        add("measured", name, f"step-{step}", output=mark, trajectory=name)


def _add_cells(plan: Plan, add) -> None:
    for cell in plan.cells:
        names, tables = (cell.trajectory, cell.checkpoint, cell.method), _tables(plan, cell)
        if cell.method != BASELINE:
            made = Path(plan.config["folders"]["results"], "quantized", cell.folder)
            done = (made / "manifest.json").exists() and _served(made / "model", tables.values())
            add("quantize", *names, output=made, trajectory=cell.trajectory, done=done)
        for (stage, dataset), path in tables.items():
            add(stage, *names, dataset, output=path, trajectory=cell.trajectory)


def _tables(plan: Plan, cell: Cell) -> dict[tuple[str, str], Path]:
    """What is measured of a cell: (rule, corpus or suite) -> its table."""
    folder = Path(plan.config["folders"]["results"], "evaluated", cell.folder)
    losses = {("evaluate_loss", corpus): folder / f"loss-{corpus}.parquet" for corpus in plan.losses[cell]}
    return losses | {("evaluate_tasks", suite): folder / f"tasks-{suite}.parquet" for suite in plan.tasks[cell]}


def _served(model: Path, tables: Iterable[Path]) -> bool:
    """Whether weights are there, or no longer needed: they may have been deleted once they were measured."""
    return model.exists() or all(path.exists() for path in tables)


def _add_study(plan: Plan, add) -> None:
    from scripts.plot import FIGURES

    results, study = Path(plan.config["folders"]["results"]), plan.config["study"]["name"]
    page = results / "report" / f"{study}.html"
    add("tabulate", study, output=results / "tables" / study / "measurements.parquet")
    for figure in FIGURES:
        add("plot", study, figure, output=results / "figures" / study / f"{figure}.svg")
    add("report", study, output=page)
    add("all", output=page)


def checkpoints_needed(plan: Plan) -> list[tuple[str, int]]:
    """(trajectory, step) of all checkpoints that the study measures or averages."""
    found, left = set(), list(plan.checkpoints)
    while left:
        name, step = left.pop()
        if (name, step) not in found:
            found.add((name, step))
            left += plan.trajectories[name].made_from(step)
    return sorted(found)


def published_needed(plan: Plan) -> list[tuple[str, int]]:
    """(trajectory, step) of those checkpoints that come from a hub."""
    return [point for point in checkpoints_needed(plan) if plan.trajectories[point[0]].source == "hub"]


def links_needed(plan: Plan) -> list[tuple[str, str]]:
    """(trajectory, link) of all training that the study's checkpoints need."""
    needed = [point for point in checkpoints_needed(plan) if plan.trajectories[point[0]].source == "train"]
    left, found = {(name, plan.trajectories[name].link_of(step)) for name, step in needed}, set()
    while left:
        name, link = left.pop()
        found.add((name, link))
        parent = plan.trajectories[name].links[link]["parent"]
        if parent and parent not in found:
            left.add(parent)
    return sorted(found)


def tokens_needed(plan: Plan) -> list[tuple[str, str, str]]:
    """(tokenizer, corpus, split) of all token files: to train on, to be measured on, to calibrate and check with."""
    found = set()
    for name in {name for name, _ in links_needed(plan)}:
        run = plan.trajectories[name]
        found.add((run.tokenizer, run.corpus, "train"))
    for cell in plan.cells:
        tokenizer = plan.trajectories[cell.trajectory].tokenizer
        found |= {(tokenizer, corpus, "validation") for corpus in plan.losses[cell]}
        if cell.method != BASELINE:
            recipe = plan.recipes[cell.method]
            drawn = [plan.config["quantize"]["probe"], *([recipe["calibration"]] if "calibration" in recipe else [])]
            found |= {(tokenizer, settings["corpus"], "calibration") for settings in drawn}
    return sorted(found)


def tokenizers_needed(plan: Plan, tokens: list[tuple[str, str, str]]) -> list[str]:
    """Tokenizers of these tokens, and those that are fetched with checkpoints."""
    fetched = {plan.trajectories[name].tokenizer for name, _ in published_needed(plan)}
    return sorted({tokenizer for tokenizer, _, _ in tokens} | fetched)


def corpora_needed(plan: Plan, tokens: list[tuple[str, str, str]]) -> list[str]:
    """Corpora of these tokens, of tokenizers that are trained, and of the tasks' documents."""
    tokenizers = tokenizers_needed(plan, tokens)
    trained = {plan.tokenizer_definition(tokenizer).get("corpus") for tokenizer in tokenizers} - {None}
    return sorted({corpus for _, corpus, _ in tokens} | trained | set(documents_needed(plan)))


def documents_needed(plan: Plan) -> list[str]:
    """Corpora whose validation split becomes documents of the study's own tasks."""
    files = _files_of_suites(plan, "documents")
    return sorted({path.parts[1] for path in files if len(path.parts) == 3 and path.parts[0] == "tasks"})


def datasets_needed(plan: Plan) -> list[Path]:
    """Files of data sets that the harness's own tasks read, below the resources folder."""
    return sorted(_files_of_suites(plan, "datasets"))


def _files_of_suites(plan: Plan, kind: str) -> set[Path]:
    return {Path(path) for suite in _suites_asked(plan) for path in plan.suites[suite][kind]}


def _suites_asked(plan: Plan) -> set[str]:
    return {suite for suites in plan.tasks.values() for suite in suites}


def _from_hub(plan: Plan, tokenizer: str) -> bool:
    return tokenizer in {plan.trajectories[name].tokenizer for name in plan.by_source("hub")}
