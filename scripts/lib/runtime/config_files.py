"""Reading and checking YAML files that users write: against a schema, with one message that says what to do."""

import difflib
from functools import lru_cache
from pathlib import Path

import jsonschema
import yaml

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"


class ConfigError(ValueError):
    """A mistake in what the user wrote; the message names file, key and value, and says what to do."""


def read_yaml(path: Path | str) -> dict:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: the file is not valid YAML or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, not {type(content).__name__}")
    return content


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
        ConfigError: the message names the file, the key, the value and what is allowed.
    """
    _require_none(_validator(schema).iter_errors(content), where)


def check(content: dict, schema: dict, where: str) -> None:
    """Check a mapping against a schema that is made in the program.

    Raises:
        ConfigError: as of `validate`.
    """
    _require_none(jsonschema.Draft202012Validator(schema).iter_errors(content), where)


def _require_none(errors, where: str) -> None:
    error = jsonschema.exceptions.best_match(errors)
    if error is not None:
        raise ConfigError(f"{where}: {_explain(error)}")


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
        ConfigError: there is no such file; the message lists near names.
    """
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
    return jsonschema.Draft202012Validator(read_yaml(SCHEMAS / f"{schema}.schema.yaml"))


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
    return f"{at}{error.message}"


def _suggest(name: str, names) -> str:
    near = difflib.get_close_matches(name, list(names), n=3)
    if near:
        return f"; did you mean {' or '.join(f'`{n}`' for n in near)}?"
    return f"; there are: {', '.join(sorted(names)) or 'none'}"
