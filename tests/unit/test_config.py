"""Config: unknown keys, wrong values and unknown names are refused in words that help; shipped files are correct."""

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

from scripts.lib.runtime.config_files import ConfigError, load_named, read_yaml, validate
from scripts.lib.study.config import require_study
from scripts.lib.study.recipes import load_recipe

TRAJECTORY = read_yaml("config/trajectories/smoke.yaml")


def changed(**changes):
    content = copy.deepcopy(TRAJECTORY)
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(kep=[1]), "unknown key `kep`; did you mean `keep`?"),
        (changed(model__hiden_size=3), "unknown key `model.hiden_size`; did you mean `hidden_size`?"),
        (changed(seed="1"), "`seed`: '1' is not of type 'integer'"),
        (changed(schedule__peak="1e-3"), "`schedule.peak`: '1e-3' is not of type 'number'"),
        (changed(schedule__name="wsdd"), "`schedule.name`: 'wsdd' is not one of constant, wsd, cosine, linear"),
        (changed(schedule__name="wsd"), "`schedule`: 'decay' is a required property"),
        (changed(source="loca"), "`source`: 'loca' is not one of train, hub, local, average"),
        (changed(keep=[]), "`keep`"),
        ({"source": "local", "checkpoints": [{"path": "x"}]}, "`checkpoints.0`: 'step' is a required property"),
        (changed(optimizer__betal=1), "unknown key `optimizer.betal`; did you mean `beta"),
    ],
)
def test_mistakes_in_a_trajectory(content, message):
    with pytest.raises(ConfigError) as caught:
        validate(content, "trajectory", "run.yaml")
    assert str(caught.value).startswith("run.yaml: ")
    assert message in str(caught.value)


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(ConfigError, match="did you mean `rtn-w3-g32`"):
        load_recipe("config/recipes", "rtn-w3-g33")


def test_yaml_that_is_none(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match=r"a\.yaml is not valid YAML"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- a\n")
    with pytest.raises(ConfigError, match="must hold keys and values"):
        read_yaml(tmp_path / "b.yaml")


def test_without_a_study_the_studies_are_listed():
    with pytest.raises(ConfigError, match=r"no study is named.*demo, methods, olmo2-1b"):
        require_study({}, "config/studies")


def test_shipped_trajectories_fit_their_schema():
    files = sorted(Path("config/trajectories").glob("*.yaml"))
    assert files
    for path in files:
        load_named("config/trajectories", "trajectory", path.stem)


def nodes(schema):
    """Every mapping inside a schema."""
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from nodes(value)


@pytest.mark.parametrize("path", sorted(Path("workflow/schemas").glob("*.yaml")), ids=lambda path: path.name)
def test_schemas_are_closed_and_described(path):
    schema = yaml.safe_load(path.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert "description" in schema
    for node in nodes(schema):
        if node.get("additionalProperties") is False:
            for name, key in node["properties"].items():
                described = "description" in key or "$ref" in key
                assert described, f"{path.name}: {name} has no description"
