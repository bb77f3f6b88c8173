"""What others say of files: names that lead out of a folder, JSON that is too deep or too large, messages."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.lib.runtime import untrusted
from scripts.lib.runtime.untrusted import inside, one_line, read_json

OUTSIDE = ["../x", "a/../../x", "/etc/x", "a/..", "..", "//x", "link/x", "out.json", "a/./../../x"]
NO_NAMES = ["", ".", "a\nb", "a\0b", "\ud800", "x" * 300]


@pytest.fixture
def folder(tmp_path):
    """A folder with a link out of it, to a folder and to a file."""
    folder = tmp_path / "inner/folder"
    folder.mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path)
    (folder / "out.json").symlink_to(tmp_path / "nowhere.json")
    return folder


@pytest.mark.parametrize("name", ["a", "a/b.json", "..a", "a..b/c", ".hidden", "a b", "Ünï", "...", "new/link"])
def test_names_of_files_stay_where_they_belong(folder, name):
    assert inside(folder, name) == folder / name


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(folder, name):
    with pytest.raises(ValueError, match="leads out of the folder that it belongs to"):
        inside(folder, name)


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_is_refused(folder, name):
    with pytest.raises(ValueError, match="is no name for a file"):
        inside(folder, name)


PARTS = st.sampled_from(["..", ".", "/", "a", "link", "out.json", "\\", "~", "%2e", "\n", " "])


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(name=st.lists(PARTS, max_size=8).map("".join) | st.text(max_size=20))
def test_no_name_of_thousands_leads_out(folder, name):
    """What passes lies in the folder, whatever the system makes of it."""
    try:
        path = inside(folder, name)
    except ValueError:
        return
    assert os.path.realpath(path).startswith(f"{os.path.realpath(folder)}/")


def test_json_that_is_too_large_deep_or_no_object_is_named(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    deep = '{"a":' * 70 + "1" + "}" * 70
    texts = {"nested deeper": deep, "is not JSON": "<html>", "but list": "[1]"}
    texts["nested deeper than 64"] = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
    for message, text in texts.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"config\.json .*{message}"):
            read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_json(path)
    path.write_text(json.dumps({"a": [{"b": 1}]}))
    assert read_json(path) == {"a": [{"b": 1}]}
    monkeypatch.setattr(untrusted, "LARGEST_JSON", 10)
    with pytest.raises(ValueError, match=r"config\.json has 17 bytes, and no more than 10 are read"):
        read_json(path)


@pytest.mark.parametrize("value", [b"[]", b"{}", b"1"])
def test_json_of_too_many_values_is_not_read(value):
    with pytest.raises(ValueError, match=r"it has \d+ values, and no more than \d+ are read"):
        untrusted.parse_json(b'{"a":[' + (value + b",") * untrusted.MOST_JSON + b"1]}", "it")


def test_a_message_is_one_printable_line():
    assert one_line("a\nb\x1b[31mc") == "a b [31mc"
    assert len(one_line("x" * 10**6)) < 1000
