"""scripts/corpus.py on small packages, files and datasets."""

import bz2
import gzip
import io
import json
import lzma
import re
import shutil
import zipfile
from pathlib import Path

import polars as pl
import pytest
import yaml
from huggingface_hub import constants

from scripts import corpus as stage
from scripts.lib.runtime import manifests
from tests.hub import connect
from tests.hub.server import Hub

DOCSTRINGS = {
    "source": "docstrings",
    "packages": ["tokenizers", "seaborn"],
    "minimum_characters": 200,
    "near_duplicates": 0.5,
    "fractions": {"validation": 0.1, "calibration": 0.1},
}


def run(definition, folder):
    out = {split: str(folder / f"{split}.parquet") for split in stage.SPLITS}
    manifest = stage.corpus(definition, "tiny", out, str(folder / "manifest.json"))
    return manifest, {split: pl.read_parquet(path) for split, path in out.items()}


def write_texts(folder, count, prefix="text"):
    folder.mkdir(exist_ok=True)
    for number in range(count):
        words = " ".join(f"{prefix}{number}word{place}" for place in range(20))
        (folder / f"{prefix}-{number:03}.txt").write_text(words)
    return {"source": "files", "paths": [f"{folder}/*.txt"], "fractions": {"validation": 0.2, "calibration": 0.2}}


@pytest.fixture(scope="module")
def docstrings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docstrings")
    return folder, *run(DOCSTRINGS, folder)


def test_docstrings_of_installed_packages(docstrings):
    folder, manifest, tables = docstrings
    table = pl.concat(tables.values())
    assert table.columns == ["document", "text", "source"]
    assert table["document"].str.contains("^[0-9a-f]{16}$").all()
    assert table["document"].is_unique().all()
    assert table["text"].str.len_chars().min() >= 200
    assert table["source"].str.contains(r"^(tokenizers|seaborn)/.*\.py:[\w.]*$").all()
    assert table["source"].str.contains(r"/tests?/").sum() == 0
    assert "seaborn/matrix.py:ClusterGrid.color_list_to_matrix_and_cmap" in table["source"].to_list()
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert manifest["versions"]["seaborn"] == manifests.versions(("seaborn",))["seaborn"]
    for split, entry in manifest["splits"].items():
        assert entry["sha256"] == manifests.sha256(folder / f"{split}.parquet")
        assert entry["documents"] == tables[split].height > 0
        assert tables[split]["document"].is_sorted()


def test_a_second_run_gives_equal_bytes(docstrings, tmp_path):
    run(DOCSTRINGS, tmp_path)
    for name in ("train.parquet", "validation.parquet", "calibration.parquet", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (docstrings[0] / name).read_bytes()


def test_docstrings_are_found_at_any_depth():
    import ast

    code = '"""Top."""\nif 1:\n  class A:\n    """Of A."""\n    def f(self):\n      "Of f."\n      def g(): "Of g."\n'
    code += "try:\n  async def h():\n    '''  Of h.\n\n      Two. \\ud800'''\nexcept E:\n  def i(): 'Of i.'\n"
    found = {scope: text for text, scope in stage.docstrings_of(ast.parse(code), "")}
    assert found == {
        "": "Top.",
        "A": "Of A.",
        "A.f": "Of f.",
        "A.f.g": "Of g.",
        "h": "Of h.\n\nTwo.",
        "i": "Of i.",
    }


def test_duplicates_are_removed_before_the_split(tmp_path):
    definition = write_texts(tmp_path / "texts", 30)
    text = (tmp_path / "texts/text-003.txt").read_text()
    (tmp_path / "texts/copy.txt").write_text(text.replace(" ", "\n\n"))
    (tmp_path / "texts/extended.txt").write_text("once more: " + text + " and so on")
    manifest, tables = run(definition | {"near_duplicates": 0.5}, tmp_path)
    assert (manifest["exact_duplicates"], manifest["near_duplicates"], manifest["duplicates_removed"]) == (1, 1, 2)
    sources = pl.concat(tables.values())["source"].to_list()
    assert len(sources) == 30
    assert f"{tmp_path}/texts/extended.txt" in sources
    assert manifest["overlap"] == {"words": 13, "validation": 0.0, "calibration": 0.0}
    assert run(definition, tmp_path)[0]["near_duplicates"] == 0


def test_more_documents_move_no_other(tmp_path):
    definition = write_texts(tmp_path / "texts", 40)
    _, before = run(definition, tmp_path)
    write_texts(tmp_path / "texts", 40, prefix="more")
    _, after = run(definition, tmp_path)
    for split in stage.SPLITS:
        assert set(before[split]["document"]) < set(after[split]["document"])


def test_files_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    definition = write_texts(tmp_path / "texts", 10) | {"text_field": "body"}
    rows = [{"body": f"line {number} of the jsonl file"} for number in range(10)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pl.DataFrame({"body": [f"row {number} of the parquet file" for number in range(10)]}).write_parquet("b.parquet")
    definition["paths"] = ["texts/*.txt", "*.jsonl", "**/*.parquet"]
    manifest, tables = run(definition, tmp_path / "out")
    sources = pl.concat(tables.values())["source"].to_list()
    assert sum(entry["documents"] for entry in manifest["splits"].values()) == 30
    assert {"texts/text-000.txt", "a.jsonl:1", "a.jsonl:10", "b.parquet:1"} <= set(sources)


def test_hub_datasets_are_streamed(tmp_path):
    rows = [{"content": f"document {number} " + "words " * number} for number in range(50)]
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    definition = {
        "source": "hub",
        "dataset": str(tmp_path / "data"),
        "split": "train",
        "text_field": "content",
        "documents": 20,
        "minimum_characters": 30,
        "fractions": {"validation": 0.3, "calibration": 0.3},
    }
    manifest, tables = run(definition, tmp_path / "out")
    table = pl.concat(tables.values())
    assert table.height == 20
    assert table["text"].str.len_chars().min() >= 30
    assert "datasets" in manifest["versions"]
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ValueError, match="only 46 documents of at least 30 characters, 60 are asked for"):
        run(definition | {"documents": 60}, tmp_path / "out")
    with pytest.raises(ValueError, match=r"row 1: it has no text in field 'text' .* it has content"):
        run(definition | {"text_field": "text"}, tmp_path / "out")


@pytest.fixture
def read_published(tmp_path, monkeypatch):
    """A function that publishes a data set's files and gives the documents of its corpus."""
    import datasets

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with Hub(tmp_path / "hub") as server:
        connect(server, monkeypatch)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.endpoint)

        def run(files, at_commit=False):
            commit = server.add("datasets/org/data", "main", files)
            pinned = {"revision": commit} if at_commit else {}
            return list(stage.hub({"source": "hub", "dataset": "org/data", "split": "train"} | pinned))

        run.server = server
        yield run


def card(place, **settings):
    """What says where a data set's files are, and how they are read."""
    said = {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": place}]} | settings]}
    return {"README.md": f"---\n{yaml.safe_dump(said)}---\n".encode()}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("{}/secret.jsonl", "Data files don't belong to org/data"),
        ("file://{}/secret.jsonl", "Data files don't belong to org/data"),
        ("../../../../../..{}/secret.jsonl", "Unable to find 'hf://datasets/org/data@"),
    ],
)
def test_a_hub_reads_no_file_of_this_machine(tmp_path, read_published, place, message):
    """A data set's card says where its data are; `datasets` takes only what is of the repository."""
    (tmp_path / "secret.jsonl").write_text('{"text": "a secret of this machine"}\n' * 9)
    with pytest.raises(ValueError, match=f"org/data, row 1: .* cannot read it: .*{message}") as refused:
        read_published(card(place.format(tmp_path)))
    assert "a secret" not in str(refused.value)
    assert str(Path.cwd()) not in str(refused.value), "which is not where anything was looked for"
    assert [address for _, address, *_ in read_published.server.requests if address.endswith("/README.md")]


README, ROW = b"---\nlicense: mit\n---\n", {"a.jsonl": b'{"text": "a"}\n'}


def told(tmp_path, status="200 OK", **headers):
    """The answer to what is asked for the card, with headers of which `{}` is a folder of this machine."""
    said = {"ETag": '"a"', "X-Repo-Commit": "0" * 40} | {name.replace("_", "-"): headers[name] for name in headers}
    outside = "../" * 20 + str(tmp_path / "outside").lstrip("/")
    lines = "".join(f"{name}: {value.replace('{}', outside)}\r\n" for name, value in said.items())
    return f"HTTP/1.1 {status}\r\n{lines}Content-Length: {len(README)}\r\n\r\n".encode() + README


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"ETag": '"{}/x.pth"'}, "the hub says ETag .*, which is none that a hub gives"),
        ({"ETag": 'W/"{}/x.pth"'}, "the hub says ETag .*, which is none that a hub gives"),
        ({"X_Linked_Etag": '"{}/x.pth"'}, "the hub says ETag .*, which is none that a hub gives"),
        ({"ETag": '".."'}, "the hub says ETag .*, which is none that a hub gives"),
        ({"X_Repo_Commit": "{}"}, "the hub says X-Repo-Commit .*, which is no commit"),
        (
            {"X_Repo_Commit": "{}", "X_Error_Code": "EntryNotFound", "status": "404 Not Found"},
            "the hub says X-Repo-Commit .*, which is no commit",
        ),
    ],
)
def test_a_header_writes_nothing_outside(tmp_path, read_published, headers, message):
    """huggingface_hub stores a file under its ETag, linked from a folder called as its commit."""
    read_published.server.fault(r"/resolve/.*README\.md", times=9, raw=told(tmp_path, **headers))
    with pytest.raises(ValueError, match=rf"^org/data at \w+, row 1: `datasets` cannot read it: .*{message}"):
        read_published({"README.md": README} | ROW, at_commit=True)
    assert not (tmp_path / "outside").exists()
    cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert cached == []


def test_a_revision_removes_no_folder_outside(tmp_path, read_published):
    """`datasets` calls a folder of its cache by it, and removes such a folder if it is empty."""
    (tmp_path / "outside").mkdir()
    said = {"id": "org/data", "sha": "../" * 20 + str(tmp_path / "outside").lstrip("/"), "siblings": []}
    read_published.server.fault(r"/api/datasets/org/data/revision/", says=json.dumps(said).encode())
    with pytest.raises(ValueError, match=r"org/data at \w+, row 1: .*`sha`: '\.\./.* is no commit"):
        read_published(ROW, at_commit=True)
    assert (tmp_path / "outside").exists()


@pytest.mark.parametrize("at", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize(
    "version", ["{}", "../../../../../../../../../../../../../../../../..{}", "..", "1.0.0\n", "a/b", ["../x"]]
)
def test_a_version_is_no_folder_outside(tmp_path, read_published, monkeypatch, version, at):
    """`datasets` reads what is known of a data set in a folder called so, and removes one that is empty."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    version = version.format(tmp_path / "outside") if isinstance(version, str) else version
    files = ROW | card("a.jsonl", **({"version": version} if at == "README.md" else {}))
    if at != "README.md":
        files[at] = yaml.safe_dump({"configs": [{"config_name": "a", "version": version}]}).encode()
    commit = read_published.server.add("datasets/org/data", "main", files)
    (tmp_path / "outside" / commit).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"org/data at .*, row 1: its card has a `version` that is no name: .*"):
        read_published(files, at_commit=True)
    assert (tmp_path / "outside" / commit).exists()


@pytest.mark.parametrize("asked", ["card", "revision"])
def test_a_commit_is_the_one_that_was_asked_for(tmp_path, read_published, asked):
    if asked == "card":
        read_published.server.add("datasets/org/data", "other", {"README.md": README, "a.jsonl": b'{"text": "b"}\n'})
        commit = read_published.server.repos["datasets/org/data"].branches["other"]
        read_published.server.fault(r"/resolve/.*README\.md", times=2, raw=told(tmp_path, X_Repo_Commit=commit))
        files = {"README.md": README} | ROW
    else:
        commit = read_published.server.add("datasets/org/data", "other", {"a.jsonl": b'{"text": "b"}\n'})
        said = {"id": "org/data", "sha": commit, "siblings": []}
        read_published.server.fault(r"/api/datasets/org/data/revision/", says=json.dumps(said).encode())
        files = ROW
    with pytest.raises(ValueError, match=f"row 1: the hub gives it at {commit} instead"):
        read_published(files, at_commit=True)


@pytest.mark.parametrize("where", ["next page", "Xet's refresh", "Xet's link"])
def test_a_token_is_sent_to_the_hub_alone(tmp_path, read_published, monkeypatch, where):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server = read_published.server
    with Hub(tmp_path / "other") as other:
        if where == "next page":
            listed = json.dumps([{"type": "file", "oid": "0" * 40, "size": 14, "path": "a.jsonl"}])
            link = f'Link: <{other.endpoint}/api/x>; rel="next"\r\nContent-Length: {len(listed)}'
            server.fault("/tree/", times=9, raw=f"HTTP/1.1 200 OK\r\n{link}\r\n\r\n{listed}".encode())
            message = rf"row 1: .* the hub's list goes on at {other.endpoint}/api/x, which is not of the hub; is HF_EN"
            with pytest.raises(ValueError, match=message):
                read_published(ROW)
        else:
            to = {"X_Xet_Refresh_Route": f"{other.endpoint}/x"}
            if where == "Xet's link":
                to = {"Link": f'<{other.endpoint}/x>; rel="xet-auth"'}
            commit = server.add("datasets/org/data", "main", {"README.md": README} | ROW)
            answer = told(tmp_path, X_Xet_Hash="a" * 64, X_Repo_Commit=commit, **to)
            server.fault(r"/resolve/.*README\.md", times=2, raw=answer)
            assert read_published({"README.md": README} | ROW, at_commit=True) == [("a", "org/data:1")]
        assert any(token for *_, token in server.requests), "the hub itself gets it"
        assert other.requests == []


@pytest.mark.parametrize("place", ["{}/x.jsonl", "zip://*.jsonl::{}/x.zip", "simplecache::{}/x.jsonl"])
def test_a_hub_asks_no_other_address(tmp_path, read_published, place):
    with Hub(tmp_path / "other") as other:
        with pytest.raises(ValueError, match=r"org/data, row 1: .* cannot read it: it names files that are not of"):
            read_published(card(place.format(other.endpoint)))
        assert other.requests == []


def test_images_of_rows_are_not_opened(tmp_path, read_published):
    (tmp_path / "secret.png").write_bytes(b"no picture: it would be an error to open it")
    features = [{"name": "text", "dtype": "string"}, {"name": "image", "dtype": "image"}]
    said = {"dataset_info": {"features": features}, "configs": [{"config_name": "default", "data_files": "a.jsonl"}]}
    row = {"text": "text", "image": {"bytes": None, "path": str(tmp_path / "secret.png")}}
    files = {"README.md": f"---\n{yaml.safe_dump(said)}---\n".encode(), "a.jsonl": json.dumps(row).encode() + b"\n"}
    assert read_published(files) == [("text", "org/data:1")]


def lines(count, text="text"):
    return gzip.compress(b"".join(json.dumps({"text": f"{text} {row}"}).encode() + b"\n" for row in range(count)))


def test_compressed_files_are_read(read_published):
    assert read_published({"a.jsonl.gz": lines(3)}) == [(f"text {row}", f"org/data:{row + 1}") for row in range(3)]


@pytest.mark.parametrize(
    ("name", "content", "settings", "named"),
    [
        ("a.csv", b"text,x\n" + b"a" * 60 + b"c,1\n", {"engine": "python", "sep": "(a|aa)+b"}, "sep, engine"),
        ("a.csv", b"text\na\n", {"delimiter": "|"}, "sep, delimiter"),
        ("a.csv", b"text\na\n", {"date_format": "%Y", "storage_options": {}}, "date_format"),
        ("a.tsv", b"text\na\n", {"sep": "\t+"}, "sep"),
        ("a.jsonl", b'{"text": "a"}', {"field": "text"}, "field"),
        ("a.jsonl", b'{"text": "a"}', {"chunksize": 10**12}, "chunksize"),
        ("a.txt", b"a", {"sample_by": "document", "encoding": "idna"}, "encoding, sample_by"),
    ],
)
def test_a_card_sets_no_reader(read_published, name, content, settings, named):
    """Some settings are programs: a pattern may take longer than the world has lasted."""
    with pytest.raises(ValueError, match=f"org/data, row 1: its card sets {named}; of a card's `configs` only"):
        read_published(card(name, **settings) | {name: content})


def test_a_file_beside_the_card_sets_no_reader(read_published):
    said = {"configs": [{"config_name": "default", "data_files": "a.csv", "quotechar": "a"}]}
    with pytest.raises(ValueError, match="org/data, row 1: its card sets quotechar; of"):
        read_published({".huggingface.yaml": yaml.safe_dump(said).encode(), "a.csv": b"text\na\n"})


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "b/a.jsonl"])
def test_a_card_says_where_files_are(read_published, name):
    rows = {"a.csv": b"text,x\na,1\n", "a.tsv": b"text\tx\na\t1\n", "a.txt": b"a\n", "b/a.jsonl": b'{"text": "a"}\n'}
    features = [{"name": "text", "dtype": "string"}]
    settings = {"default": True, "version": "1.0.0"} | ({"features": features} if name == "a.txt" else {})
    assert read_published(card(name, **settings) | {name: rows[name]}) == [("a", "org/data:1")]


@pytest.mark.parametrize("name", ["a.xml", "a.tar", "a.h5", "a.png", "a.lance"])
def test_files_that_are_no_texts_are_refused(read_published, name):
    with pytest.raises(ValueError, match=r"org/data, row 1: .*(its files are none of csv|cannot read it)"):
        read_published({name: b"a"})


@pytest.mark.parametrize(
    "said",
    [
        [{"name": "text", "dtype": {"class_label": {"names_file": "/dev/zero"}}}],
        [{"name": "text", "dtype": "evil"}],
        [{"name": "text", "list": 5}],
        [5],
        "text",
    ],
)
@pytest.mark.parametrize("legacy", [True, False])
def test_descriptions_of_columns_that_are_none_are_refused(read_published, monkeypatch, said, legacy):
    monkeypatch.setattr(stage, "ROW_MEMORY", 5 * 10**8)
    about = {"README.md": f"---\n{yaml.safe_dump({'dataset_info': {'features': said}})}---\n".encode()}
    if legacy:
        about = {"dataset_infos.json": json.dumps({"default": {"features": {"text": {"_type": said}}}}).encode()}
    with pytest.raises(ValueError, match=r"^org/data, row 1: .*(it takes more than 0\.5 GB|cannot read it)"):
        read_published(about | {"a.jsonl": b'{"text": "a"}\n'})


def test_a_hang_ends(read_published, monkeypatch):
    """A name of files is made a pattern, here one that goes through all ways to cut a long name into 20 parts."""
    monkeypatch.setattr(stage, "ROW_SECONDS", 3)
    with pytest.raises(ValueError, match=r"^org/data, row 1: it takes more than 3 s$"):
        read_published(card("a*" * 20 + "b.jsonl") | {"a" * 100 + ".jsonl": b'{"text": "a"}\n'})


def packed(kind, content):
    """A file's bytes in an archive or a compressed file."""
    if kind == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.jsonl", content)
        return file.getvalue()
    return {"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(content)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zip"])
def test_a_line_without_end_is_refused(read_published, monkeypatch, kind):
    monkeypatch.setattr(stage, "LINE_MEMORY", 5 * 10**7)
    content = packed(kind, b'{"text": "' + b"a" * 10**8 + b'"}\n')
    assert len(content) < 10**6
    with pytest.raises(ValueError, match=r"^org/data, row 1: it takes more than 0\.1 GB$"):
        read_published({f"a.{kind}" if kind == "zip" else f"a.jsonl.{kind}": content})


def test_a_row_has_an_end(read_published, monkeypatch):
    monkeypatch.setattr(stage, "LONGEST", 5)
    with pytest.raises(ValueError, match="row 2: it has 6 characters, 5 at most"):
        read_published({"a.jsonl.gz": lines(1, "abc") + lines(1, "abcd")})


def test_a_users_document_has_an_end_too(tmp_path, monkeypatch):
    """A tokenizer takes some hundred times its size."""
    monkeypatch.setattr(stage, "LONGEST", 200)
    definition = write_texts(tmp_path / "texts", 3)
    told = r"^corpus tiny: \S+/text-000\.txt has 229 characters, 200 at most are read: split it$"
    with pytest.raises(ValueError, match=told):
        run(definition, tmp_path)


def test_a_corpus_for_evaluation_alone_has_an_empty_train_split(tmp_path):
    definition = write_texts(tmp_path / "texts", 30) | {"fractions": {"validation": 0.5, "calibration": 0.5}}
    manifest, tables = run(definition, tmp_path)
    assert tables["train"].is_empty()
    assert tables["train"].columns == ["document", "text", "source"]
    assert manifest["overlap"]["validation"] == 0


@pytest.mark.parametrize("package", ["no_such_package", "json", "numpy.linalg", "six"])
def test_a_package_that_is_not_installed_is_named(tmp_path, package):
    with pytest.raises(ValueError, match=f"{re.escape(package)}.* is not an installed package .* take it off"):
        run(DOCSTRINGS | {"packages": [package]}, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": ["*.nothing"]}, r"'\*\.nothing' in `paths` of the corpus matches no file"),
        ({"paths": ["bad.jsonl"]}, r"bad\.jsonl, line 2 has no text in field 'text' \(`text_field`\); it has other"),
        ({"paths": ["broken.jsonl"]}, r"broken\.jsonl, line 1 is not valid JSON"),
        ({"paths": ["deep.jsonl"]}, r"deep\.jsonl, line 1 is not valid JSON"),
        ({"paths": ["half.jsonl"]}, r"half\.jsonl, line 1 has half a character \(surrogates not allowed\)"),
        ({"paths": ["bad.parquet"]}, r"bad\.parquet, row 1 has no text in field 'text' .* it has other"),
        ({"paths": ["latin.txt"]}, r"latin\.txt is not UTF-8 text"),
        ({"minimum_characters": 10**6}, r"corpus tiny: no document of at least 1000000 characters"),
        ({"documents": 99}, "only 5 documents of at least 1 characters, 99 are asked for"),
        ({"fractions": {"validation": 1e-4, "calibration": 0.2}}, "split validation .* empty"),
        ({"fractions": {"validation": 0.9, "calibration": 0.2}}, "sum at most 1"),
        ({"source": "web"}, "source is 'web', not one of docstrings, files, hub"),
    ],
)
def test_bad_definitions_have_clear_messages(tmp_path, monkeypatch, change, message):
    definition = write_texts(tmp_path / "texts", 5)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"other": "y"}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": \n')
    (tmp_path / "deep.jsonl").write_text("[" * 100_000 + "\n")
    (tmp_path / "half.jsonl").write_text('{"text": "\\ud800"}\n')
    (tmp_path / "latin.txt").write_bytes("naïve".encode("latin-1"))
    pl.DataFrame({"other": ["x"]}).write_parquet("bad.parquet")
    with pytest.raises(ValueError, match=message):
        run(definition | change, tmp_path / "out")
