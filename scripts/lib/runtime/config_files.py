"""Reading and checking YAML files that users write: against a schema, with one message that says what to do."""

import difflib
import math
import re
from functools import lru_cache
from pathlib import Path

import jsonschema
import yaml

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of whatever has one; names become parts of paths and commands
NAME_RULE = "a name has up to 100 letters, digits, `.`, `_` and `-`, and begins with a letter or a digit"
FORMATS = jsonschema.FormatChecker(formats=())  # what schemas may ask for as `format`
LARGEST = 100_000  # values in a file, each alias counted as what it stands for

POWER = re.compile(r"([-+]?)(\d+)(\.\d*)?[eE]([-+]?\d+)")  # 5e-3 and 1.5e6, which YAML 1.1 reads as text


class ConfigError(ValueError):
    """A mistake in what the user wrote; the message names file, key and value, and says what to do."""


def read_yaml(path: Path | str) -> dict:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: there is no such file, it is not valid YAML (the message shows the place), it holds something else,
            a number that is not finite, a template (`__use_yte__`), or more than any such file needs.
    """
    try:
        content = _load(Path(path).read_text())
    except FileNotFoundError as error:
        names = [file.name for file in Path(path).parent.glob("*.yaml")]
        raise ConfigError(f"{path} does not exist{_suggest(Path(path).name, names)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error.reason} at byte {error.start}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML{_place(error)}") from error
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply: write it flatter") from None
    except OverflowError:
        raise ConfigError(
            f"{path} holds more than {LARGEST:,} values, aliases (`*name`) counted as what they stand for: shorten it"
        ) from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(content).__name__}")
    if "__use_yte__" in content:
        raise ConfigError(f"{path}: templates are not evaluated here: remove `__use_yte__` and write the values out")
    require_finite(content, str(path))
    return content


def _load(text: str):
    """What YAML holds.

    Raises:
        OverflowError: more than LARGEST values. RecursionError: it is nested too deeply, or an alias holds itself.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _size(node, {}) > LARGEST:
            raise OverflowError
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node holds, itself included; `known` are those that were counted."""
    if id(node) not in known:
        inner = () if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in inner for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]


def require_finite(content: dict, where: str) -> None:
    """Raise ConfigError that lists all numbers of a mapping which are not finite (`.nan`, `.inf`)."""
    found = [f"`{key}` is {value}" for key, value in _numbers(content, "") if not math.isfinite(value)]
    if found:
        raise ConfigError(f"{where}: {', '.join(found)}; write a finite number")


def ordered(content):
    """The same content with the keys of all mappings sorted.

    Snakemake compares params as text: without this, the order in which a user writes keys would decide what reruns.
    """
    if isinstance(content, dict):
        return {key: ordered(content[key]) for key in sorted(content, key=str)}
    return [ordered(value) for value in content] if isinstance(content, list) else content


def validate(content: dict, schema: str, where: str) -> None:
    """Check a mapping against workflow/schemas/{schema}.schema.yaml.

    Raises:
        ConfigError: the message has a line for each mistake, with the file, the key, the value and what is allowed.
    """
    _require_none(content, _validator(schema), where)


def check(content: dict, schema: dict, where: str) -> None:
    """Check a mapping against a schema that is made in the program.

    Raises:
        ConfigError: as of `validate`.
    """
    _require_none(content, jsonschema.Draft202012Validator(schema, format_checker=FORMATS), where)


def _require_none(content: dict, validator: jsonschema.Draft202012Validator, where: str) -> None:
    require_finite(content, where)
    errors = [jsonschema.exceptions.best_match([error]) for error in validator.iter_errors(content)]
    if errors:
        errors.sort(key=jsonschema.exceptions.relevance, reverse=True)
        raise ConfigError("\n".join(dict.fromkeys(f"{where}: {_explain(error)}" for error in errors)))


def load_named(folder: Path | str, kind: str, name: str) -> dict:
    """Read config/{folder}/{name}.yaml and check it against the schema of its kind.

    Raises:
        ConfigError: there is no such file (the message lists near names), or it does not fit its schema.
    """
    content = read_named(folder, kind, name)
    validate(content, kind, f"{folder}/{name}.yaml")
    return ordered(content)


def read_named(folder: Path | str, kind: str, name: str) -> dict:
    """Read config/{folder}/{name}.yaml.

    Raises:
        ConfigError: it is no name, or there is no such file; the message lists near names.
    """
    if not is_name(name):
        raise ConfigError(f"{name!r} is no {kind}: {NAME_RULE}")
    path = Path(folder) / f"{name}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in Path(folder).glob("*.yaml"))
        raise ConfigError(f"there is no {kind} `{name}`: {path} does not exist{_suggest(name, names)}")
    return read_yaml(path)


def require_name(name: str, names, what: str, where: str) -> None:
    """Raise ConfigError unless `name` is among `names`; the message says where it was used and suggests near names."""
    if name not in names:
        raise ConfigError(f"{where}: there is no {what} `{name}`{_suggest(name, names)}")


@lru_cache
def _validator(schema: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(read_yaml(SCHEMAS / f"{schema}.schema.yaml"), format_checker=FORMATS)


@FORMATS.checks("name")
def is_name(text) -> bool:
    """Whether a text can be the name of a file in config/, of a corpus, tokenizer, study or task."""
    return not isinstance(text, str) or bool(NAME.fullmatch(text))


@FORMATS.checks("repository")
def is_repository(text) -> bool:
    """Whether a text can be a hub's `owner/name`."""
    parts = text.split("/") if isinstance(text, str) else []
    return not isinstance(text, str) or (len(parts) == 2 and all(map(is_name, parts)))


@FORMATS.checks("repositories")
def is_repository_of_revisions(text) -> bool:
    """Whether a text can be a repository, or one for each revision: `owner/name-{revision}`."""
    return is_repository(text.replace("{revision}", "") if isinstance(text, str) else text)


def _explain(error: jsonschema.ValidationError) -> str:
    key = ".".join(map(str, error.absolute_path))
    at = f"`{key}`: " if key else ""
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = [k for k in error.instance if k not in allowed]
        full = ", ".join(f"`{key}.{k}`" if key else f"`{k}`" for k in unknown)
        return f"unknown key {full}{_suggest(unknown[0], allowed)}"
    if error.validator == "enum":
        return f"{at}{error.instance!r} is not one of {', '.join(map(str, error.validator_value))}"
    if error.validator == "format":
        is_named = error.validator_value == "name"
        return f"{at}{error.instance!r} is no {'name' if is_named else 'repository, owner/name'}: {NAME_RULE}"
    return f"{at}{error.message}{_number_meant(error)}"


def _number_meant(error: jsonschema.ValidationError) -> str:
    """What to write where a number is wanted and YAML read `5e-3` as text; nothing for other mistakes."""
    allowed = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
    match = POWER.fullmatch(error.instance) if error.validator == "type" and isinstance(error.instance, str) else None
    if match and "number" in allowed:
        sign, whole, part, power = match.groups()
        part = part if part and part != "." else ".0"
        return f" (YAML reads it as text): write {sign}{whole}{part}e{int(power):+d}"
    if match and "integer" in allowed and float(error.instance).is_integer():
        return f" (YAML reads it as text): write {float(error.instance):.0f}"
    return ""


def _numbers(content, key: str):
    """(dotted key, value) of all floating-point numbers in nested mappings and lists."""
    if isinstance(content, float):
        yield key, content
    elif isinstance(content, dict | list):
        for name, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _numbers(value, f"{key}.{name}" if key else str(name))


def _place(error: yaml.YAMLError) -> str:
    """Line and column of a mistake in YAML, with the line itself and a caret below it."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": {error}"
    problem = error.problem
    if "'\\t'" in problem:
        problem = "a tab; indent with spaces"
    return f": line {mark.line + 1}, column {mark.column + 1}: {problem}\n{mark.get_snippet()}"


def _suggest(name: str, names) -> str:
    near = difflib.get_close_matches(name, list(names), n=3)
    if near:
        return f"; did you mean {' or '.join(f'`{n}`' for n in near)}?"
    return f"; there are: {', '.join(sorted(names)) or 'none'}"
