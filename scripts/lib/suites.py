"""Suites and their tasks, read and checked before any model is loaded.

The Snakefile calls these functions when it is parsed, so lm-eval itself (1.3 s to import) is not imported: what it
accepts is read from the source code of the installed version.
"""

import ast
import difflib
import functools
import importlib.util
from pathlib import Path

import jsonschema
import yaml

SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "suite.schema.yaml"
LOCAL_FORMATS = ("json", "csv", "parquet", "text")
REQUIRED = ("task", "dataset_path", "dataset_kwargs", "output_type", "doc_to_text", "doc_to_target")
OUTPUT_TYPES = ("loglikelihood", "multiple_choice", "loglikelihood_rolling")
UNSUPPORTED = (
    *("custom_dataset", "unsafe_code", "doc_to_image", "doc_to_audio"),
    *("generation_kwargs", "filter_list", "repeats", "num_fewshot"),
)


def load_suite(path: Path | str) -> dict:
    """Read a suite file and check it against workflow/schemas/suite.schema.yaml.

    Returns:
        {"tasks": [{"task": str, "num_fewshot": int}, ...], "batch_size": int, "limit": int | None}

    Raises:
        ValueError: the file is missing, is not YAML or has a wrong key or value; the message names file and key.
    """
    suite = _read_yaml(Path(path), "suite file")
    if str(suite.get("batch_size")).startswith("auto"):
        raise ValueError(
            f"{path}: batch_size: {suite['batch_size']!r} is refused, because scores change with the batch size and "
            "`auto` picks one by the free memory of the machine; write an integer, e.g. batch_size: 16"
        )
    schema = yaml.safe_load(SCHEMA.read_text())
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(suite))
    if error is not None:
        raise ValueError(f"{path}: {_describe(error)}")
    names = [entry["task"] for entry in suite["tasks"]]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{path}: tasks: {name!r} is listed {names.count(name)} times; list it once")
    return suite


def load_tasks(suite: dict, tasks_folder: Path | str) -> dict[str, dict]:
    """Read and check the task files that a suite names; `include`s are merged as the harness merges them.

    Args:
        suite: what `load_suite` returns.
        tasks_folder: folder of the task files, `<task>.yaml`.

    Returns:
        {task name: its fields}, in the suite's order; a `!function` is kept as "<path>.<function>".

    Raises:
        ValueError: a task file is missing, or has a wrong field or value; the message names file and field.
    """
    tasks = {}
    for entry in suite["tasks"]:
        path = Path(tasks_folder) / f"{entry['task']}.yaml"
        if not path.is_file():
            present = [p.stem for p in Path(tasks_folder).glob("*.yaml") if not p.stem.startswith("suite-")]
            raise ValueError(
                f"the suite names task {entry['task']!r}, but {path} does not exist{_hint(path.stem, present)}"
            )
        fields, _ = _read_task(path)
        _check_task(path, fields)
        _check_shots(path, fields, entry["num_fewshot"])
        tasks[entry["task"]] = fields
    return tasks


def task_files(suite: dict, tasks_folder: Path | str) -> list[str]:
    """Every file that shapes the suite's tasks: the task files, what they include, and the code of a `!function`."""
    found = {}
    for entry in suite["tasks"]:
        _, paths = _read_task(Path(tasks_folder) / f"{entry['task']}.yaml")
        found.update(dict.fromkeys(map(str, paths)))
    return list(found)


def document_files(tasks: dict[str, dict], data_root: Path | str) -> list[str]:
    """The data files of all tasks, each once; relative ones lie below `data_root` (the resources folder)."""
    paths = [path for fields in tasks.values() for paths in rooted(fields, data_root).values() for path in paths]
    return list(dict.fromkeys(paths))


def rooted(fields: dict, data_root: Path | str) -> dict[str, list[str]]:
    """{split: [paths]} of one task, relative paths put below `data_root`."""
    files = fields["dataset_kwargs"]["data_files"]
    return {
        split: [str(Path(data_root) / path) for path in ([paths] if isinstance(paths, str) else paths)]
        for split, paths in files.items()
    }


def _check_task(path: Path, fields: dict) -> None:
    """Check one task's fields against the installed harness and against what this workflow supports."""
    known = _dataclass_fields("TaskConfig")
    _check_names(path, "field", fields, known)
    _check_names(
        path, "field of fewshot_config", fields.get("fewshot_config") or {}, _dataclass_fields("FewshotConfig")
    )
    for field in REQUIRED:
        if fields.get(field) is None:
            raise ValueError(f"{path}: field {field!r} is missing")
    for field in UNSUPPORTED:
        if fields.get(field) is not None:
            why = "the suite sets it" if field == "num_fewshot" else "tasks here are scored by log-likelihood of text"
            raise ValueError(f"{path}: field {field!r} cannot be used: {why}; remove it")
    if fields["task"] != path.stem:
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
        _check_names(path, "metric in metric_list:", [entry["metric"]], _registered("register_metric"))
        if "aggregation" in entry:
            known = _registered("register_aggregation")
            _check_names(path, "aggregation in metric_list:", [entry["aggregation"]], known)


def _check_shots(path: Path, fields: dict, shots: int) -> None:
    if shots and fields["output_type"] == "loglikelihood_rolling":
        raise ValueError(f"{path}: a rolling log-likelihood has no examples; set num_fewshot: 0 in the suite")
    if shots and not (fields.get("fewshot_split") or fields.get("fewshot_config")):
        raise ValueError(
            f"{path}: the suite asks for {shots} examples, but field 'fewshot_split' does not say from where"
        )


def _read_task(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict, list[Path]]:
    """Fields of a task file with its includes merged, local keys winning, and all files that were read."""
    if path in above:
        raise ValueError(f"{path}: field 'include' leads back to the file itself")
    fields, files = _read_yaml(path, "task file"), [path]
    includes, merged = fields.pop("include", None) or [], {}
    for include in [includes] if isinstance(includes, str) else includes:
        inner, inner_files = _read_task(path.parent / include, (*above, path))
        merged.update(inner)
        files += inner_files
    functions = [value[len(_FUNCTION) :] for value in _strings(fields) if value.startswith(_FUNCTION)]
    modules = [path.parent / f"{function.rpartition('.')[0].replace('.', '/')}.py" for function in functions]
    return {**merged, **fields}, files + [module for module in modules if module.is_file()]


def _read_yaml(path: Path, what: str) -> dict:
    if not path.is_file():
        raise ValueError(f"{what} {path} does not exist")
    try:
        content = yaml.load(path.read_text(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values, not {type(content).__name__}")
    return content


_FUNCTION = "!function "


class _Loader(yaml.SafeLoader):
    """Safe YAML in which the harness's `!function module.name` is text: "!function module.name"."""


_Loader.add_constructor("!function", lambda loader, node: _FUNCTION + loader.construct_scalar(node))


def _strings(value) -> list[str]:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for item in inner for text in _strings(item)]
    return [value] if isinstance(value, str) else []


@functools.cache
def _source(relative: str) -> ast.Module:
    """Syntax tree of a file of the installed lm-eval, found without importing it."""
    package = Path(importlib.util.find_spec("lm_eval").origin).parent
    return ast.parse((package / relative).read_text())


@functools.cache
def _dataclass_fields(name: str) -> tuple[str, ...]:
    """Field names of a dataclass in lm_eval/config/task.py."""
    body = next(node.body for node in _source("config/task.py").body if getattr(node, "name", None) == name)
    return tuple(node.target.id for node in body if isinstance(node, ast.AnnAssign))


@functools.cache
def _registered(decorator: str) -> tuple[str, ...]:
    """Names that lm_eval/api/metrics.py registers with a decorator, as its first or its `metric` argument."""
    calls = [node for node in ast.walk(_source("api/metrics.py")) if isinstance(node, ast.Call)]
    calls = [call for call in calls if getattr(call.func, "id", None) == decorator]
    values = [([*call.args] + [word.value for word in call.keywords if word.arg == "metric"])[0] for call in calls]
    return tuple(value.value for value in values)


def _check_names(path: Path, what: str, names, known) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{path}: unknown {what} {name!r}{_hint(str(name), known)}")


def _hint(name: str, known) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _describe(error: jsonschema.ValidationError) -> str:
    """One line for a schema error: where, what, and what was probably meant."""
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        unknown = next(str(key) for key in error.instance if key not in known)
        return f"unknown key {'.'.join(filter(None, [where, unknown]))!r}{_hint(unknown, known)}"
    return f"{where}: {error.message}" if where else error.message
