"""fetch_dataset: a split of a data set from a local hub, as the lock has it or as the branch of conversions is now."""

import io
import json

import polars as pl
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import fetch_dataset as stage
from scripts.fetch_dataset import fetch_dataset
from scripts.lib.hub import client, locks
from scripts.lib.runtime import manifests
from tests.hub import connect
from tests.hub.server import Hub

REPO = "org/data"


def parquet(rows: int, text: str = "x") -> bytes:
    """A parquet file of so many rows; beyond some thousand it is large enough to be stored as LFS."""
    file = io.BytesIO()
    pl.DataFrame({"text": [f"{text}{row}" for row in range(rows)]}).write_parquet(file, compression="uncompressed")
    return file.getvalue()


FILES = {f"{name}/0000.parquet": parquet(rows) for name, rows in (("a/test", 20_000), ("a/train", 3), ("b/test", 1))}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as server:
        server.add(f"datasets/{REPO}", locks.CONVERTED, FILES)
        connect(server, monkeypatch)
        yield server


@pytest.fixture
def take(tmp_path):
    """A function that fetches a file and gives its number of rows and its manifest."""

    def run(name, locked=None):
        out, manifest = tmp_path / "out/0000.parquet", tmp_path / "out/manifest.json"
        out.parent.mkdir(exist_ok=True)
        fetch_dataset(REPO, name, locked, tmp_path / "state", out, manifest)
        assert not (tmp_path / "state").exists()
        return pl.read_parquet(out).height, manifests.read(manifest)

    return run


@pytest.mark.parametrize(("name", "rows"), [("a/test/0000.parquet", 20_000), ("a/train/0000.parquet", 3)])
def test_a_split_and_where_it_is_from(server, take, tmp_path, name, rows):
    height, manifest = take(name)
    assert height == manifest["rows"] == rows
    assert (manifest["repo"], manifest["file"]) == (REPO, name)
    assert manifest["commit"] == server.repos[f"datasets/{REPO}"].branches[locks.CONVERTED]
    assert manifest["sha256"] == manifests.sha256(tmp_path / "out/0000.parquet")
    asked = {address for method, address, *_ in server.requests if "/resolve/" in address}
    assert all(address.endswith(name) for address in asked)


def test_a_part_of_a_killed_job_is_gone_on_with(server, take, tmp_path):
    name = "a/test/0000.parquet"
    (tmp_path / "state/a/test").mkdir(parents=True)
    (tmp_path / "state" / f"{name}.part").write_bytes(FILES[name][:50_000])
    assert take(name)[0] == 20_000
    assert {wanted for method, address, wanted, _ in server.requests if address.startswith("/lfs/")} == {"bytes=50000-"}


def test_corrupt_bytes_are_fetched_again(server, take):
    fault = server.fault("^/lfs/", corrupt=True)
    assert take("a/test/0000.parquet")[0] == 20_000
    assert fault.hits == 1


def test_the_lock_is_followed_and_nothing_else_is_asked(server, take, tmp_path):
    lock = locks.read(tmp_path, "org--data")
    found = client.resolve(REPO, locks.CONVERTED, keep_named, "dataset")
    locks.merge(lock, locks.CONVERTED, found)
    locks.write(tmp_path, "org--data", lock)
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": parquet(7)})
    server.requests.clear()
    assert take("a/test/0000.parquet", locks.of_dataset(tmp_path, "org--data", "a/test/0000.parquet"))[0] == 20_000
    assert not [address for _, address, *_ in server.requests if address.startswith("/api/")]
    further = locks.of_dataset(tmp_path, "org--data", "b/test/0000.parquet")
    assert further["files"] == {}
    assert take("b/test/0000.parquet", further)[1]["commit"] == found["commit"]
    assert locks.of_dataset(tmp_path, "org--other", "a/test/0000.parquet") is None


@pytest.mark.parametrize(
    ("asked", "held", "repo"),
    [
        ("a/test/0000.parquet", "b/train/0000.parquet", REPO),
        ("a/test/0000.parquet", "b/test/0000.parquet", REPO),
        ("default/test/0000.parquet", "a/train/0000.parquet", REPO),
        ("a/test/0000.parquet", None, REPO),
        ("a/test/0000.parquet", "a/test/0000.parquet", "org/other"),
    ],
)
def test_a_lock_that_was_edited_gives_no_other_file(tmp_path, asked, held, repo):
    entry = {"bytes": 1, "blob": "0" * 40} | ({"name": held} if held else {})
    lock = {"revisions": {locks.CONVERTED: {"repo": repo, "commit": "0" * 40, "files": {asked: entry}}}}
    path = locks.write(tmp_path, "org--data", lock)
    said = f"{path} has {held or 'nothing'} of {repo} as {asked} of {REPO}; mend it, or delete it and run"
    with pytest.raises(ValueError, match=said):
        locks.of_dataset(tmp_path, "org--data", asked)


@pytest.mark.parametrize("held", ["default", "plain_text"])
def test_a_lock_has_the_only_configuration_as_the_default(tmp_path, held):
    files = {"default/test/0000.parquet": {"bytes": 1, "blob": "0" * 40, "name": f"{held}/test/0000.parquet"}}
    lock = {"revisions": {locks.CONVERTED: {"repo": REPO, "commit": "0" * 40, "files": files}}}
    locks.write(tmp_path, "org--data", lock)
    assert locks.of_dataset(tmp_path, "org--data", "default/test/0000.parquet")["files"] == files


def test_a_commit_without_a_lock_of_the_file_is_that_commit(server, take):
    server.fault("/api/", says=b'{"sha": "%s", "siblings": []}' % (b"1" * 40))
    with pytest.raises(client.Unavailable, match=f"{REPO} at revision 0+: the hub says that it is 1+; is HF_ENDPOINT"):
        take("a/test/0000.parquet", {"repo": REPO, "commit": "0" * 40, "files": {}})


def keep_named(files, where):
    return {name: files[name] | {"name": name} for name in ("a/test/0000.parquet",)}


def test_the_only_configuration_is_the_default(server, take):
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"plain_text/test/0000.parquet": parquet(5), "README.md": b""})
    height, manifest = take("default/test/0000.parquet")
    assert (height, manifest["file"]) == (5, "plain_text/test/0000.parquet")


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        (FILES, "c/test/0000.parquet", r"refs/convert/parquet has no c/test/0000.parquet; its configurations: a, b"),
        (FILES, "default/test/0000.parquet", "has no default/test/0000.parquet; its configurations: a, b"),
        (FILES | {"a/test/0001.parquet": parquet(1)}, "a/test/0000.parquet", "has a/test in several files"),
    ],
)
def test_what_cannot_be_read_is_named(server, take, files, name, message):
    server.add(f"datasets/{REPO}", locks.CONVERTED, files)
    with pytest.raises(client.Unavailable, match=message) as error:
        take(name)
    assert REPO in str(error.value)


def test_a_data_set_without_a_conversion_is_named(server, take):
    del server.repos[f"datasets/{REPO}"].branches[locks.CONVERTED]
    with pytest.raises(client.Unavailable, match=f"{REPO} at revision {locks.CONVERTED}: the hub has no such revision"):
        take("a/test/0000.parquet")


@pytest.mark.parametrize("name", ["../../outside.parquet", "/outside/a/0000.parquet", "a/../../../outside.parquet"])
def test_a_lock_writes_nothing_outside(server, take, tmp_path, name):
    entry = {"bytes": 3, "blob": "0" * 40, "name": name}
    locked = {"repo": REPO, "commit": "0" * 40, "files": {"a/test/0000.parquet": entry}}
    with pytest.raises(client.Unavailable, match=f"{REPO} at 0000.*'{name}' leads out .* if a lock names it, delete"):
        take("a/test/0000.parquet", locked)
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "out"}
    assert not server.requests


@pytest.mark.parametrize("place", ["..", ""])
def test_a_listing_writes_nothing_outside(server, take, tmp_path, place):
    """The only configuration that there is, by which a task's default one is called."""
    server.move(f"datasets/{REPO}", locks.CONVERTED, {f"{place}/test/0000.parquet": parquet(5)})
    with pytest.raises(client.Unavailable, match=f"{REPO} at .*'{place}/test/0000.parquet' is no file of a repository"):
        take("default/test/0000.parquet")
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "out"}
    assert list((tmp_path / "out").iterdir()) == []


def test_a_link_leads_nothing_outside(server, take, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state/a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(client.Unavailable, match=r"'a/test/0000\.parquet' leads out of the folder"):
        take("a/test/0000.parquet")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("said", ["listing", "lock"])
def test_a_file_that_is_too_large_is_not_downloaded(server, take, monkeypatch, said):
    name = "a/test/0000.parquet"
    locked = client.resolve(REPO, locks.CONVERTED, keep_named, "dataset") if said == "lock" else None
    monkeypatch.setattr(stage, "MOST_DECODED", 1000)
    server.requests.clear()
    with pytest.raises(client.Unavailable, match=rf"{name} has {len(FILES[name])} bytes, and 1000 at most are read"):
        take(name, locked)
    assert not [address for _, address, *_ in server.requests if "/resolve/" in address]


@pytest.mark.parametrize("content", [b"<html>", b"", FILES["a/test/0000.parquet"][:-100]])
def test_what_is_no_parquet_is_named(server, take, content):
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": content})
    with pytest.raises(client.Unavailable, match=f"{REPO} at .*: a/test/0000.parquet cannot be read: it is no parquet"):
        take("a/test/0000.parquet")


def repeated(rows: int, text: str) -> bytes:
    """A small file of one text many times."""
    file = io.BytesIO()
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), [text])
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), file, store_schema=False)
    return file.getvalue()


@pytest.mark.parametrize(
    ("rows", "text", "message"),
    [
        (10_001, "", "it holds more than 10000 rows or 1000000 bytes"),
        (2000, "a" * 2000, "it holds more than 10000 rows or 1000000 bytes"),
    ],
)
def test_a_small_file_of_many_rows_is_refused(server, take, monkeypatch, rows, text, message):
    monkeypatch.setattr(stage, "MOST_ROWS", 10_000)
    monkeypatch.setattr(stage, "MOST_DECODED", 10**6)
    content = repeated(rows, text)
    assert len(content) < 100_000
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": content})
    with pytest.raises(client.Unavailable, match=f"{REPO} at .*: a/test/0000.parquet cannot be read: {message}; take"):
        take("a/test/0000.parquet")


LONG = "a" * 101


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        ([LONG], pyarrow.string()),
        ([LONG], pyarrow.large_string()),
        ([LONG], pyarrow.string_view()),
        ([LONG.encode()], pyarrow.binary()),
        ([LONG.encode()], pyarrow.binary(101)),
        ([LONG], pyarrow.dictionary(pyarrow.int32(), pyarrow.string())),
        ([["a", LONG]], pyarrow.list_(pyarrow.string())),
        ([["a", LONG]], pyarrow.large_list(pyarrow.string())),
        ([["a", LONG]], pyarrow.list_(pyarrow.string(), 2)),
        (
            [[{"a": "a", "b": [LONG]}]],
            pyarrow.list_(pyarrow.struct({"a": "string", "b": pyarrow.list_(pyarrow.string())})),
        ),
        (["\u1234" * 34], pyarrow.string()),
    ],
    ids=str,
)
def test_a_long_text_is_refused(server, take, monkeypatch, column, kind):
    """A tokenizer may end the process that gives it one."""
    monkeypatch.setattr(stage, "LONGEST", 100)
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"number": [1], "a": pyarrow.array(column, kind)}), file)
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": file.getvalue()})
    with pytest.raises(client.Unavailable, match=r"cannot be read: it has a text of 10[12] bytes, and 100 at most are"):
        take("a/test/0000.parquet")


@pytest.mark.parametrize("of", [pyarrow.list_, pyarrow.large_list])
def test_a_long_list_is_refused(server, take, of):
    """Each choice of a question becomes a request to the model."""
    choices = [{"text": ["w3"] * 1001}]
    file = io.BytesIO()
    table = pyarrow.table({"choices": pyarrow.array(choices, pyarrow.struct({"text": of(pyarrow.string())}))})
    pyarrow.parquet.write_table(table, file)
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": file.getvalue()})
    with pytest.raises(client.Unavailable, match="it has a row whose lists have 1001 items, and 1000 at most are read"):
        take("a/test/0000.parquet")


@pytest.mark.parametrize(
    ("column", "kind", "items"),
    [
        ([[[None] * 1000] * 1000, []], pyarrow.list_(pyarrow.list_(pyarrow.null())), 1_001_000),
        ([[{"a": {"b": 1, "c": [2, 3]}}] * 200], None, 200 * 6),
        ([None, {"a": [[1] * 600, None, [1] * 600]}], None, 1203),
        ([[[1] * 40] * 30], pyarrow.list_(pyarrow.list_(pyarrow.int8(), 40), 30), 1230),
    ],
    ids=["null", "structs", "struct", "fixed"],
)
def test_lists_in_lists_count_together(server, take, column, kind, items):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array(column, kind)}), file)
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": file.getvalue()})
    with pytest.raises(client.Unavailable, match=f"it has a row whose lists have {items} items, and 1000 at most are"):
        take("a/test/0000.parquet")


@given(st.data())
@settings(max_examples=200, deadline=None, database=None)
def test_items_are_counted_as_python_would(data):
    """Of lists, structs and null, cut out of longer columns."""
    leaf = st.none() | st.integers(0, 9)
    row = st.none() | st.lists(st.none() | st.fixed_dictionaries({"a": leaf, "b": st.none() | st.lists(leaf)}))
    rows = data.draw(st.lists(row, max_size=8))
    inner = pyarrow.struct({"a": pyarrow.int64(), "b": pyarrow.list_(pyarrow.int64())})
    start = data.draw(st.integers(0, len(rows)))

    def count(items):
        return sum(3 + len((item or {}).get("b") or []) for item in items or [])

    for of in (pyarrow.list_, pyarrow.large_list):
        array = pyarrow.array(rows, of(inner))[start:]
        assert stage.items_of_rows(array).tolist() == [count(items) for items in rows[start:]]


def test_what_codes_stand_for_is_counted(server, take, monkeypatch):
    """A schema that calls a column of codes a text makes `datasets` write the text once a row."""
    monkeypatch.setattr(stage, "MOST_DECODED", 10**6)
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 2000, pyarrow.int32()), ["a" * 2000])
    content = with_features({"a": {"dtype": "string", "_type": "Value"}}, a=column)
    assert len(content) < 100_000
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": content})
    with pytest.raises(client.Unavailable, match="it holds more than 10000000 rows or 1000000 bytes"):
        take("a/test/0000.parquet")


def test_nothing_counts_too(server, take, monkeypatch):
    """Null takes no memory in a column, and some in a row."""
    monkeypatch.setattr(stage, "MOST_DECODED", 10**6)
    content = with_features(None, a=pyarrow.array([[None] * 900] * 200, pyarrow.list_(pyarrow.null())))
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": content})
    with pytest.raises(client.Unavailable, match="it holds more than 10000000 rows or 1000000 bytes"):
        take("a/test/0000.parquet")


def with_features(features: dict | None, **columns) -> bytes:
    """A file that tells `datasets` what its columns are."""
    file = io.BytesIO()
    table = pyarrow.table(columns)
    said = json.dumps({"info": {"features": features}})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"huggingface": said}), file)
    return file.getvalue()


IMAGE = {"_type": "Image"}
PICTURE = [{"bytes": None, "path": "/etc/passwd"}]


@pytest.mark.parametrize(
    ("features", "columns", "message"),
    [
        ({"a": IMAGE}, {"a": PICTURE}, "a column is of type 'Image', which is more than numbers and text"),
        ({"a": {"_type": "List", "feature": IMAGE}}, {"a": [PICTURE]}, "a column is of type 'Image'"),
        ({"a": [{"b": {"_type": "Audio"}}]}, {"a": [PICTURE]}, "a column is of type 'Audio'"),
        ({"a": {"_type": "Json"}}, {"a": ["[" * 10]}, "a column is of type 'Json'"),
        ({"a": {"_type": "Features"}}, {"a": [1]}, "a column is of type 'Features'"),
        ({"a": {"_type": "ClassLabel", "num_classes": 10**9}}, {"a": [1]}, "a column is of type 'ClassLabel'"),
        (
            {"a": {"_type": "ClassLabel", "names": [], "names_file": "/etc/passwd"}},
            {"a": [1]},
            "the names of a column",
        ),
    ],
)
def test_columns_that_open_files_are_refused(server, take, features, columns, message):
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": with_features(features, **columns)})
    with pytest.raises(client.Unavailable, match=f"0000.parquet cannot be read: {message}.*; take"):
        take("a/test/0000.parquet")


@pytest.mark.parametrize(
    "said",
    [
        {"a": {"dtype": "string", "_type": 5}},
        {"a": {"dtype": "string", "_type": ["Value"]}},
        {"a": {"dtype": "evil", "_type": "Value"}},
        {"a": {"dtype": 5, "_type": "Value"}},
        {"a": {"dtype": {}, "_type": "Value"}},
        {"a": {"_type": "Value"}},
        {"a": {"_type": "List"}},
        {"a": {"_type": "List", "feature": "string"}},
        {"a": "string"},
        {"a": None},
        [1],
        "text",
        {"b": {"dtype": "evil", "_type": "Value"}},
    ],
)
def test_a_schema_that_is_not_loaded_is_refused(server, take, said):
    """What the schema says fails while the file is fetched, and not in each of the jobs that read it."""
    refused = f"{REPO} at .*0000.parquet cannot be read: `datasets` does not load it"
    for rows in (["text"], pyarrow.array([], pyarrow.string())):
        server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": with_features(said, a=rows)})
        with pytest.raises(client.Unavailable, match=refused):
            take("a/test/0000.parquet")


@pytest.mark.parametrize(
    ("said", "columns"),
    [
        ({"a": {"dtype": "int64", "_type": "Value"}}, {"a": ["text"]}),
        ({"b": {"dtype": "string", "_type": "Value"}}, {"a": ["text"]}),
        ({"a": {"_type": "List", "feature": {"dtype": "int8", "_type": "Value"}, "length": 10**9}}, {"a": [[1]]}),
        ({"a": {"_type": "ClassLabel", "names": ["no"]}}, {"a": [7]}),
        ({"a": {"_type": "ClassLabel", "names": [5, []]}}, {"a": [0]}),
        (None, {"a": ["text"]}),
    ],
)
def test_what_is_fetched_loads(server, take, tmp_path, said, columns):
    """Where the schema does not fit the columns, `datasets` goes by them."""
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": with_features(said, **columns)})
    take("a/test/0000.parquet")
    file = str(tmp_path / "out/0000.parquet")
    rows = load_dataset("parquet", data_files={"test": file}, cache_dir=str(tmp_path / "cache"))["test"]
    assert rows[:] == columns


def test_a_schema_that_is_no_json_is_refused(server, take):
    file = io.BytesIO()
    table = pyarrow.table({"a": [1]}).replace_schema_metadata({"huggingface": "{" * 1000})
    pyarrow.parquet.write_table(table, file)
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": file.getvalue()})
    with pytest.raises(client.Unavailable, match="cannot be read: its schema is not JSON"):
        take("a/test/0000.parquet")


def test_plain_columns_stay_byte_for_byte(server, take, tmp_path):
    """Classes with their names, lists, columns that are called as a part of a description."""
    kinds = {"label": ClassLabel(names=["no", "yes"]), "_type": Value("string"), "choices": List(Value("string"))}
    rows = [{"label": 1, "_type": "Image", "choices": ["a", "b"]}, {"label": 0, "_type": "x", "choices": []}]
    Dataset.from_list(rows, features=Features(kinds)).to_parquet(tmp_path / "plain.parquet")
    content = (tmp_path / "plain.parquet").read_bytes()
    server.move(f"datasets/{REPO}", locks.CONVERTED, {"a/test/0000.parquet": content})
    assert take("a/test/0000.parquet")[0] == 2
    assert (tmp_path / "out/0000.parquet").read_bytes() == content
