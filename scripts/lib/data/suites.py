"""Suites and their tasks, read and checked before any model is loaded.

A task is a file of config/tasks, which reads local files, or one of the installed lm-eval's own, whose data are fetched
from a hub. The Snakefile calls these functions when it is parsed, so lm-eval itself is not imported.
"""

import difflib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from scripts.lib.data import harness
from scripts.lib.runtime.config_files import is_name, read_yaml, validate

LOCAL_FORMATS = ("json", "csv", "parquet", "text")
REQUIRED = ("task", "dataset_path", "dataset_kwargs", "output_type", "doc_to_text", "doc_to_target")
OUTPUT_TYPES = ("loglikelihood", "multiple_choice", "loglikelihood_rolling")
UNSUPPORTED = (
    *("custom_dataset", "unsafe_code", "doc_to_image", "doc_to_audio"),
    *("generation_kwargs", "filter_list", "repeats"),
)
LARGE_BENCHMARK = 3240  # documents of a task or group of the harness: those of suite paper12, on average


@dataclass(frozen=True)
class Task:
    """A task as a suite asks for it.

    fields: of its file, includes merged, a `!function` as "!function <module>.<function>"; one of the harness's own
    reads what is fetched. score: the name under which tables have its documents: its own, or that of the group that the
    suite names. files: all that shape it: its file, what that includes, and the code of a `!function`. own: whether its
    file is one of config/tasks.
    """

    fields: dict
    score: str
    shots: int
    files: tuple[Path, ...]
    own: bool

    @property
    def path(self) -> Path:
        """Its task file."""
        return self.files[0]

    def data(self, root: Path | str) -> dict[str, list[str]]:
        """{split: [paths]}, relative paths put below `root`, the resources folder."""
        files = self.fields["dataset_kwargs"]["data_files"]
        return {
            split: [str(Path(root) / path) for path in ([paths] if isinstance(paths, str) else paths)]
            for split, paths in files.items()
        }


def load_suite(path: Path | str) -> dict:
    """Read a suite file and check it against workflow/schemas/suite.schema.yaml.

    Returns:
        {"tasks": [{"task": str, "num_fewshot": int}, ...], "batch_size": int, "limit": int | None}

    Raises:
        ValueError: the file is missing, is not YAML or has a wrong key or value; the message names file and key.
    """
    suite = read_yaml(path)
    if str(suite.get("batch_size")).startswith("auto"):
        raise ValueError(
            f"{path}: batch_size: {suite['batch_size']!r} is refused, because scores change with the batch size and "
            "`auto` picks one by the free memory of the machine; write an integer, e.g. batch_size: 16"
        )
    validate(suite, "suite", str(path))
    names = [entry["task"] for entry in suite["tasks"]]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: tasks: {name!r} is listed {names.count(name)} times; list it once")
    return suite


def load_tasks(suite: dict, tasks_folder: Path | str) -> dict[str, Task]:
    """Read and check the tasks that a suite names, groups as their tasks.

    Args:
        suite: what `load_suite` returns.
        tasks_folder: folder of this project's task files, `<task>.yaml`; a name without one is the harness's.

    Returns:
        {task name: task}, in the suite's order.

    Raises:
        ValueError: a task file is missing, or has a wrong field or value; the message names file and field.
    """
    tasks = {}
    for entry in suite["tasks"]:
        own = Path(tasks_folder) / f"{entry['task']}.yaml"
        for path in [own] if own.is_file() else _of_harness(entry["task"], own):
            fields, files = harness.read_task(path)
            fields = fields if path == own else _fetched(path, fields)
            _check_task(path, fields, path == own)
            _check_shots(path, fields, entry["num_fewshot"])
            if fields["task"] in tasks:
                raise ValueError(f"the suite names task {fields['task']!r} by itself and in a group; name it once")
            tasks[fields["task"]] = Task(fields, entry["task"], entry["num_fewshot"], tuple(files), path == own)
    return tasks


def describe(path: Path | str) -> dict:
    """What the rules need to know of a suite.

    Returns:
        tasks: files of config/tasks that shape it; prompts: a hash of those of the harness. documents, datasets: data
        files below the resources folder, made here or fetched. limit: of documents a task. asked: documents of the
        harness's own tasks, at most. shots: examples before a document, at most.

    Raises:
        ValueError: as of `load_suite` and `load_tasks`.
    """
    suite = load_suite(path)
    tasks = load_tasks(suite, Path(path).parent)
    own, others = ({name: task for name, task in tasks.items() if task.own == is_own} for is_own in (True, False))
    content = b"".join(
        file.read_bytes() for file in dict.fromkeys(file for task in others.values() for file in task.files)
    )
    limit = suite["limit"]
    return {
        "tasks": list(dict.fromkeys(str(file) for task in own.values() for file in task.files)),
        "prompts": hashlib.sha256(content).hexdigest()[:12] if others else None,
        "documents": document_files(own, ""),
        "datasets": document_files(others, ""),
        "limit": limit,
        "shots": max(entry["num_fewshot"] for entry in suite["tasks"]),
        "asked": limit * len(others) if limit else LARGE_BENCHMARK * len({task.score for task in others.values()}),
    }


def document_files(tasks: dict[str, Task], data_root: Path | str) -> list[str]:
    """The data files of all tasks, each once; relative ones lie below `data_root` (the resources folder)."""
    return list(
        dict.fromkeys(path for task in tasks.values() for paths in task.data(data_root).values() for path in paths)
    )


def _of_harness(name: str, own: Path) -> list[Path]:
    found = harness.find(name)
    if found is None:
        present = [p.stem for p in own.parent.glob("*.yaml") if not p.stem.startswith("suite-")]
        raise ValueError(
            f"the suite names task {name!r}, but {own} does not exist, and the installed lm-eval has no task or group "
            f"of that name{_hint(name, present)}"
        )
    return harness.members(found)


def _fetched(path: Path, fields: dict) -> dict:
    """A harness's task, reading what is fetched of its data set: the scored split and that of the examples."""
    repo, kwargs = fields.get("dataset_path"), set(fields.get("dataset_kwargs") or {})
    config, examples = fields.get("dataset_name") or "default", fields.get("fewshot_config") or {}
    scored = fields.get("test_split") or fields.get("validation_split")
    shown = examples.get("split") or fields.get("fewshot_split")
    if not shown and not examples.get("samples"):
        shown = fields.get("training_split") or fields.get("validation_split") or scored
    splits = dict.fromkeys(filter(None, (scored, shown)))
    texts = (*str(repo).split("/", 1), config, *splits)
    plain = all(isinstance(text, str) and is_name(text) for text in texts)
    if not plain or not splits or repo in LOCAL_FORMATS or kwargs - {"trust_remote_code"}:
        raise ValueError(
            f"{path}: fields 'dataset_path', 'dataset_kwargs' and those of splits say more than a data set of the hub, "
            "its configuration and whole splits; such a task of lm-eval cannot be used here"
        )
    files = {split: f"datasets/{repo.replace('/', '--')}/{config}/{split}/0000.parquet" for split in splits}
    return fields | {"dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": {"data_files": files}}


def _check_task(path: Path, fields: dict, own: bool) -> None:
    """Check one task's fields against the installed harness and against what this workflow supports."""
    _check_names(path, "field", fields, harness.dataclass_fields("TaskConfig"))
    known = harness.dataclass_fields("FewshotConfig")
    _check_names(path, "field of fewshot_config", fields.get("fewshot_config") or {}, known)
    for field in REQUIRED:
        if fields.get(field) is None:
            raise ValueError(f"{path}: field {field!r} is missing")
    for field in (*UNSUPPORTED, "num_fewshot") if own else UNSUPPORTED:
        if fields.get(field) is not None:
            why = "the suite sets it" if field == "num_fewshot" else "tasks here are scored by log-likelihood of text"
            raise ValueError(
                f"{path}: field {field!r} cannot be used: {why}; {'remove it' if own else 'choose another task'}"
            )
    if own and fields["task"] != path.stem:
        raise ValueError(f"{path}: field 'task' is {fields['task']!r}; it must be the file's own name, {path.stem!r}")
    if fields["output_type"] not in OUTPUT_TYPES:
        raise ValueError(
            f"{path}: field 'output_type' is {fields['output_type']!r}; use one of {', '.join(OUTPUT_TYPES)}"
        )
    if fields["output_type"] == "multiple_choice" and fields.get("doc_to_choice") is None:
        raise ValueError(f"{path}: field 'doc_to_choice' is missing; a multiple_choice task needs it")
    _check_data(path, fields)
    _check_metrics(path, fields)


def _check_data(path: Path, fields: dict) -> None:
    """Check that a task reads local files and scores a split that they have."""
    files = fields["dataset_kwargs"].get("data_files") if isinstance(fields["dataset_kwargs"], dict) else None
    if fields["dataset_path"] not in LOCAL_FORMATS or not isinstance(files, dict) or not files:
        raise ValueError(
            f"{path}: tasks read local files: set dataset_path to one of {', '.join(LOCAL_FORMATS)} and "
            "dataset_kwargs.data_files to {split: path}, relative to the resources folder"
        )
    splits = [fields[key] for key in ("test_split", "validation_split") if fields.get(key) is not None]
    if not splits or splits[0] not in files:
        raise ValueError(f"{path}: set test_split to one of the splits in data_files: {', '.join(files)}")


def _check_metrics(path: Path, fields: dict) -> None:
    """Check that every metric and aggregation is one that the installed harness registers."""
    metrics = fields.get("metric_list")
    if not metrics or not all(isinstance(entry, dict) and "metric" in entry for entry in metrics):
        raise ValueError(f"{path}: field 'metric_list' must list at least one {{metric: name}}")
    for entry in metrics:
        _check_names(path, "metric in metric_list:", [entry["metric"]], harness.registered("register_metric"))
        if "aggregation" in entry:
            known = harness.registered("register_aggregation")
            _check_names(path, "aggregation in metric_list:", [entry["aggregation"]], known)


def _check_shots(path: Path, fields: dict, shots: int) -> None:
    if shots and fields["output_type"] == "loglikelihood_rolling":
        raise ValueError(f"{path}: a rolling log-likelihood has no examples; set num_fewshot: 0 in the suite")
    if shots and not any(fields.get(key) for key in ("fewshot_split", "fewshot_config", "training_split")):
        raise ValueError(
            f"{path}: the suite asks for {shots} examples, but field 'fewshot_split' does not say from where"
        )


def _check_names(path: Path, what: str, names, known) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{path}: unknown {what} {name!r}{_hint(str(name), known)}")


def _hint(name: str, known) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
