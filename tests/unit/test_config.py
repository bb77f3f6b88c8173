"""Config: unknown keys, wrong values and unknown names are refused in words that help; shipped files are correct."""

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml

from scripts.lib.runtime.config_files import ConfigError, load_named, read_yaml, validate
from scripts.lib.study.config import require_one_study, require_study
from scripts.lib.study.plan import load_plan
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
        (changed(schedule__peak="5e-3"), "(YAML reads it as text): write 5.0e-3"),
        (changed(schedule__peak="1.5E6"), "(YAML reads it as text): write 1.5e+6"),
        (changed(batch_size="1e2"), "(YAML reads it as text): write 100"),
        (changed(schedule__peak=float("nan")), "`schedule.peak` is nan; write a finite number"),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"style": "tick"}, "config: `plot.style`: 'tick' is not one of white, dark, whitegrid, darkgrid, ticks"),
        ({"context": "print"}, "config: `plot.context`: 'print' is not one of paper, notebook, talk, poster"),
        ({"font_scale": 0}, "config: `plot.font_scale`: 0 is less than or equal to the minimum of 0"),
        ({"font": "Arial"}, "config: unknown key `plot.font`; there are: context, font_scale, palette, style"),
    ],
)
def test_mistakes_in_the_theme_of_figures(changes, message):
    config = read_yaml("config/default.yaml") | read_yaml("config/studies/demo.yaml")
    with pytest.raises(ConfigError) as caught:
        validate(config | {"plot": config["plot"] | changes}, "config", "config")
    assert str(caught.value) == message


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


def test_all_mistakes_of_a_file_are_said_at_once():
    with pytest.raises(ConfigError) as caught:
        validate(changed(seed="1", kep=[1], schedule__peak="x"), "trajectory", "run.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("run.yaml: ") for line in lines)


@pytest.mark.parametrize("windows", [1, 512, "all", 0, "most"])
def test_windows_of_loss_are_a_number_or_all(windows):
    config = read_yaml("config/default.yaml") | read_yaml("config/studies/demo.yaml")
    config = config | {"evaluate_loss": config["evaluate_loss"] | {"windows": windows}}
    if windows in (0, "most"):
        with pytest.raises(ConfigError, match=r"`evaluate_loss\.windows`"):
            validate(config, "config", "config")
    else:
        validate(config, "config", "config")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("a: {b: [1.0, .nan]}\nc: -.inf\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: `a\.b\.1` is nan, `c` is -inf; write a finite number"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n\tb: 1\n", "line 2, column 1: a tab; indent with spaces\n    \tb: 1\n    ^"),
        ("a: 1\n  b: 2\n", "line 2, column 4: mapping values are not allowed here\n      b: 2\n       ^"),
    ],
)
def test_a_tab_or_a_bad_indent_is_shown(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert said in str(caught.value)


def laughs(levels: int) -> str:
    """A YAML bomb: each level holds the one before nine times."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels))])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(30), "holds more than 100,000 values, aliases (`*name`) counted as what they stand for"),
        ("a: &a {<<: [*b]}", "is not valid YAML"),
        ("a: &a [*a]", "is nested too deeply"),
        ("a: &a {b: *a}", "is nested too deeply"),
        ("a: " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
        ("__use_yte__: true\n?import os: 1\n", "templates are not evaluated here: remove `__use_yte__`"),
    ],
)
def test_yaml_that_explodes_or_runs_is_refused(tmp_path, text, said):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / "a.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/a.yaml ") or f"{tmp_path}/a.yaml: " in str(caught.value)
    assert said in str(caught.value)


def test_aliases_that_save_lines_are_read(tmp_path):
    (tmp_path / "a.yaml").write_text("a: &a {b: 1}\nc: {<<: *a, d: 2}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"b": 1}, "c": {"b": 1, "d": 2}}


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match=r"a\.yaml is not text in UTF-8: .* at byte 3"):
        read_yaml(tmp_path / "a.yaml")


def test_without_a_study_the_studies_are_listed():
    with pytest.raises(ConfigError, match=r"no study is named.*demo, methods, methods-real, model-size, olmo2-1b"):
        require_study({}, "config/studies")


def test_two_studies_are_named_and_refused(tmp_path):
    (tmp_path / "more.yaml").write_text("compute: {threads: 2}\n")
    require_one_study(["config/default.yaml", "config/studies/demo.yaml", Path("config/studies/demo.yaml").resolve()])
    require_one_study(["config/studies/demo.yaml", tmp_path / "more.yaml"])
    with pytest.raises(ConfigError, match=r"more than one study is given: \S+demo\.yaml, \S+smoke\.yaml"):
        require_one_study(["config/studies/demo.yaml", "config/studies/smoke.yaml"])
    with pytest.raises(ConfigError, match="more than one study is given"):
        load_plan("demo", "config/studies/smoke.yaml")
    with pytest.raises(ConfigError, match=r"config/more\.yaml does not exist"):
        load_plan("demo", "config/more.yaml")


@pytest.mark.parametrize(
    ("folder", "kind"), [("trajectories", "trajectory"), ("corpora", "corpus"), ("tokenizers", "tokenizer")]
)
def test_shipped_files_fit_their_schema(folder, kind):
    files = sorted(Path("config", folder).glob("*.yaml"))
    assert files
    for path in files:
        load_named(path.parent, kind, path.stem)


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
