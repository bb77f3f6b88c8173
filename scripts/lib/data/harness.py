"""What the installed lm-eval holds, read from its files: the Snakefile asks at each parse, and an import takes 1.3 s.

Task files, the harness's own and this project's, are YAML with `include` and `!function`, read as the harness does.
"""

import ast
import difflib
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

FUNCTION = "!function "


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Safe YAML in which the harness's `!function module.name` is text: "!function module.name"."""

    def function(self, node) -> str:
        """The text of a `!function`."""
        return FUNCTION + self.construct_scalar(node)


Loader.add_constructor("!function", Loader.function)


def read_yaml(path: Path, what: str) -> dict:
    """The mapping that a YAML file holds.

    Raises:
        ValueError: it is missing, not YAML or something else; `what` says what it was to be.
    """
    if not path.is_file():
        raise ValueError(f"{what} {path} does not exist")
    try:
        content = yaml.load(path.read_text(), Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold keys and values, not {type(content).__name__}")
    return content


def read_task(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict, list[Path]]:
    """Fields of a task file with its includes merged, local keys winning, and all files that were read.

    Raises:
        ValueError: a file is missing or wrong, or includes itself; the message names it.
    """
    if path in above:
        raise ValueError(f"{path}: field 'include' leads back to the file itself")
    fields, files = read_yaml(path, "task file"), [path]
    includes, merged = fields.pop("include", None) or [], {}
    for include in [includes] if isinstance(includes, str) else includes:
        inner, inner_files = read_task(path.parent / include, (*above, path))
        merged.update(inner)
        files += inner_files
    functions = [value[len(FUNCTION) :] for value in strings(fields) if value.startswith(FUNCTION)]
    modules = [path.parent / f"{function.rpartition('.')[0].replace('.', '/')}.py" for function in functions]
    return {**merged, **fields}, files + [module for module in dict.fromkeys(modules) if module.is_file()]


def strings(value) -> list[str]:
    """All texts in nested mappings and lists."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return [text for item in inner for text in strings(item)]
    return [value] if isinstance(value, str) else []


@functools.cache
def package() -> Path:
    """Folder of the installed lm-eval."""
    return Path(importlib.util.find_spec("lm_eval").origin).parent


@functools.cache
def find(name: str) -> Path | None:
    """The harness's file of a task or a group, of some 14,000; those in folders with similar names are read first."""
    key = re.compile(
        rf"""^["']?(task|group)["']?:[ \t]*["']?{re.escape(name)}["']?[ \t]*(#.*)?$""".encode(), re.MULTILINE
    )
    for folder in _folders(name):
        for path in sorted((package() / "tasks" / folder).rglob("*.yaml")):
            if key.search(path.read_bytes()):
                return path
    return None


def _folders(name: str) -> Iterator[str]:
    """The folders of tasks, first those that are called as a task or as its first word, then the most similar."""
    folders = sorted(entry.name for entry in os.scandir(package() / "tasks") if entry.is_dir())
    first = [folder for folder in (name, name.split("_")[0]) if folder in folders]
    yield from first
    yield from difflib.get_close_matches(name, sorted({*folders} - {*first}), n=len(folders), cutoff=0)


def members(path: Path) -> list[Path]:
    """The task files of a group's file, which subgroups and tags in the same folder lead to; of a task's, just itself.

    Raises:
        ValueError: the harness does not score the group as the mean over the documents of all its tasks.
    """
    content = read_yaml(path, "task file")
    if "group" not in content:
        return [path]
    scores = content.get("aggregate_metric_list") or []
    scores = [scores] if isinstance(scores, dict) else scores
    if not scores or any(not score.get("weight_by_size", True) for score in scores):
        raise ValueError(f"{path}: the score of this group is not the mean over all documents; name its tasks instead")
    return list(dict.fromkeys(_leaves(path, content, *_known(path.parent))))


def _leaves(path: Path, content: dict, files: dict[str, Path], tags: dict[str, list[str]]) -> list[Path]:
    found = []
    for member in content["task"]:
        if not isinstance(member, str) or member not in files | tags:
            raise ValueError(
                f"{path}: member {member!r} is no task, group or tag of its folder; name the tasks instead"
            )
        for inner in [member] if member in files else sorted(tags[member]):
            inside = read_yaml(files[inner], "task file")
            found += _leaves(files[inner], inside, files, tags) if "group" in inside else [files[inner]]
    return found


def _known(folder: Path) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """Tasks and groups of a folder by name, and its tags with their tasks."""
    files, tags = {}, {}
    for path in sorted(folder.rglob("*.yaml")):
        content = read_yaml(path, "task file")
        name = content.get("group", content.get("task"))
        if isinstance(name, str):
            files.setdefault(name, path)
            given = content.get("tag") or []
            for tag in [given] if isinstance(given, str) else given:
                tags.setdefault(tag, []).append(name)
    return files, tags


@functools.cache
def source(relative: str) -> ast.Module:
    """Syntax tree of a file of the installed lm-eval."""
    return ast.parse((package() / relative).read_text())


@functools.cache
def dataclass_fields(name: str) -> tuple[str, ...]:
    """Field names of a dataclass in lm_eval/config/task.py."""
    body = next(node.body for node in source("config/task.py").body if getattr(node, "name", None) == name)
    return tuple(node.target.id for node in body if isinstance(node, ast.AnnAssign))


@functools.cache
def registered(decorator: str) -> tuple[str, ...]:
    """Names that lm_eval/api/metrics.py registers with a decorator, as its first or its `metric` argument."""
    calls = [node for node in ast.walk(source("api/metrics.py")) if isinstance(node, ast.Call)]
    calls = [call for call in calls if getattr(call.func, "id", None) == decorator]
    values = [([*call.args] + [word.value for word in call.keywords if word.arg == "metric"])[0] for call in calls]
    return tuple(value.value for value in values)
