"""A hub that lies: nothing of it is locked, run, or waited for without end, and one message says what was wrong."""

import contextlib
import gzip
import json
import logging
import math
import re
import sys
import time
import tokenize
from pathlib import Path

import httpx
import pytest
import yaml
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from scripts.commands import propose
from scripts.fetch import fetch
from scripts.fetch_tokenizer import fetch_tokenizer
from scripts.lib.hub import answers, client, locks, patience
from scripts.lib.models.loading import load_dense, load_empty, load_tokenizer
from scripts.lib.runtime.confined import streamed
from scripts.publish import publish
from tests.hub import connect
from tests.hub.server import Hub

REPO = "org/model"
SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 512, "max_position_embeddings": 4096}
CONFIG = {"model_type": "llama", "torch_dtype": "bfloat16", **SHAPE}
FILES = {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": bytes(2000), "tokenizer.json": b"{}"}
LISTING, DOWNLOAD = "/api/models/org/model/revision/", r"/resolve/.*/config\.json"
PROPOSED = {"source", "repo", "model", "tokens_per_step", "revisions", "sources", "remote_code"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as server:
        server.add(REPO, "step1", FILES)
        connect(server, monkeypatch)
        yield server


@pytest.fixture
def own_config(server, tiny_model, tmp_path, tiny_tokenizer):
    """A function that publishes a small model with a config of its own, fetches it and gives its folder."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")

    def take(**keys):
        files = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
        files["config.json"] = json.dumps(json.loads(files["config.json"]) | keys, indent=1).encode()
        server.add(REPO, "main", files)
        resolved = client.resolve(REPO, "main", client.model_files)
        fetch(resolved, tmp_path / "tokenizer", tmp_path / "state", tmp_path / "model", {})
        return tmp_path / "model"

    return take


def file(**wrong):
    """A listing with a file, some of what it says being wrong."""
    entry = {"rfilename": "config.json", "size": 1, "blobId": "0" * 40} | wrong
    return {"sha": "0" * 40, "siblings": [entry]}


OUTSIDE = ["", "/etc/x", "../x", "a/../x", "a//x", "a/", ".", "a\nb", "\ud800", "a" * 300]
LIES = [
    (b"<html>Please log in</html>", "it is not JSON"),
    (b"\xff\xfe", "it is not JSON"),
    (b"[" * 100_000, "it is nested deeper than 64 levels"),
    (b"[]", "it holds no keys and values, but list"),
    (b"{}", "'sha' is a required property"),
    ({"sha": "0" * 40, "siblings": {}}, r"`siblings`: \{\} is not of type 'array'"),
    ({"sha": "../../x", "siblings": []}, r"`sha`: '\.\./\.\./x' is no commit"),
    ({"sha": "0" * 40 + "\n", "siblings": []}, "is no commit"),
    (file(size=None), r"`siblings\.0\.size`: None is not of type 'integer'"),
    (file(size=3.0), r"`siblings\.0\.size`: 3\.0 is not of type 'integer'"),
    (file(size=True), r"`siblings\.0\.size`: True is not of type 'integer'"),
    (file(size=-1), "-1 is less than the minimum of 0"),
    (file(size=10**400), "is greater than the maximum"),
    (file(blobId="../../x"), r"`siblings\.0\.blobId`: '\.\./\.\./x' is no hash of git's"),
    (file(blobId=None), "None is not of type 'string'"),
    (file(lfs={"sha256": "../../x"}), r"`siblings\.0\.lfs\.sha256`: '\.\./\.\./x' is no SHA-256"),
    (file(lfs=[]), r"`siblings\.0\.lfs`: \[\] is not valid"),
    (file(rfilename=["a"]), r"\['a'\] is not of type 'string'"),
    *((file(rfilename=name), r"`siblings\.0\.rfilename`: .* is no file of a repository") for name in OUTSIDE),
]


@pytest.mark.parametrize(("lie", "message"), LIES, ids=range(len(LIES)))
def test_a_listing_that_is_none_is_refused(server, lie, message):
    server.fault(LISTING, says=lie if isinstance(lie, bytes) else json.dumps(lie).encode())
    with pytest.raises(client.Unavailable, match=message) as refused:
        client.describe_revision(REPO, "step1")
    said = str(refused.value)
    assert re.fullmatch(r"org/model at revision step1: the hub's answer is none that a hub gives \(.*later", said)


@pytest.mark.parametrize("choose", [client.model_files, client.tokenizer_files])
def test_settings_of_any_size_are_not_asked_for(choose):
    files = {name: {"bytes": 2**50} for name in ("config.json", "tokenizer.json", "model.safetensors")}
    with pytest.raises(client.Unavailable, match=r"here: \w+\.json has 1125899906842624 bytes, and no more than"):
        choose(files, "here")


def test_the_commit_of_a_data_set_is_a_commit(server):
    server.add("datasets/org/texts", "main", {"a": b""})
    assert client.commit_of_dataset("org/texts", "main") == server.repos["datasets/org/texts"].branches["main"]
    server.fault("/api/datasets/", says=b'{"sha": "../../x"}')
    with pytest.raises(client.Unavailable, match=r"org/texts at revision main: .* is no commit"):
        client.commit_of_dataset("org/texts", "main")


@pytest.mark.parametrize("repo", ["../..", "org/../x", "a/b/c", "a b/c", "org/x\ny"])
def test_a_repository_that_can_be_none_is_not_asked_for(server, repo):
    with pytest.raises(client.Unavailable, match="a repository cannot be called so"):
        client.describe_revision(repo, "main")
    assert server.requests == []


def test_an_endless_listing_ends(server, monkeypatch):
    monkeypatch.setattr(client, "LARGEST_ANSWER", 100)
    with pytest.raises(client.Unavailable, match="it has more than 100 bytes"):
        client.describe_revision(REPO, "step1")


PARTS = st.sampled_from(["..", ".", "/", "a", "\\", "~", "%2e", "\n", " "])


@settings(max_examples=1000, deadline=None, database=None)
@given(st.lists(PARTS, max_size=8).map("".join) | st.text(max_size=20))
def test_paths_of_a_listing_stay_in_their_folder(tmp_path_factory, name):
    """Whatever the schema lets pass."""
    try:
        found = answers.read(json.dumps(file(rfilename=name)).encode(), answers.FILES_OF_REVISION)
    except ValueError:
        return
    folder = tmp_path_factory.getbasetemp()
    path = folder / found["siblings"][0]["rfilename"]
    assert path.resolve().is_relative_to(folder.resolve())
    assert path.resolve() != folder.resolve()


# Waiting


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(patience, "TIMEOUT", 0.2)
    monkeypatch.setattr(patience, "FIRST_LINES", 0.3)
    monkeypatch.setattr(patience, "WINDOW", 0.1)
    monkeypatch.setattr(patience, "ATTEMPTS", 2)


def fetch_one(tmp_path):
    found = client.describe_revision(REPO, "step1")
    return client.fetch_file(REPO, found["commit"], "config.json", found["files"]["config.json"], tmp_path / "state")


@pytest.mark.parametrize("where", [LISTING, DOWNLOAD])
def test_nobody_sleeps_for_a_day(server, tmp_path, monkeypatch, where):
    slept = []
    monkeypatch.setattr(patience, "sleep", slept.append)
    server.fault(where, status=429, retry_after=100_000)
    with pytest.raises(client.Unavailable, match=r"org/model .*step1|config.json: the hub asks to wait for 100000 s"):
        fetch_one(tmp_path)
    assert slept == []


@pytest.mark.parametrize("where", [LISTING, DOWNLOAD])
def test_what_is_slept_is_bounded_in_sum_and_said(server, tmp_path, monkeypatch, caplog, where):
    slept = []
    monkeypatch.setattr(patience, "sleep", slept.append)
    server.fault(where, status=503, retry_after=400, times=math.inf)
    with caplog.at_level(logging.WARNING), pytest.raises(client.Unavailable, match="asks to wait for 400 s; run again"):
        fetch_one(tmp_path)
    assert slept == [400, 400]
    assert sum(slept) <= patience.LONGEST_WAITED
    told = [record.getMessage() for record in caplog.records if record.name == "trajquant"]
    assert len(told) == 2
    assert re.fullmatch(r"org/model at .*: status 503: waiting for the hub until \d\d:\d\d:\d\d", told[0])


@pytest.mark.parametrize("value", ["9" * 5000, "-5", "-", "²", "soon", ""])
def test_a_wait_that_is_none_is_not_taken(server, tmp_path, value):
    server.fault(DOWNLOAD, status=503, retry_after=value)
    assert fetch_one(tmp_path).read_bytes() == FILES["config.json"]


@pytest.mark.parametrize(
    ("where", "fault", "message"),
    [
        (LISTING, {"delay": 5}, "no answer within 0.3 s|timed out"),
        (DOWNLOAD, {"delay": 5}, "no answer within 0.3 s|timed out"),
        (LISTING, {"drip": 0.02}, "it sent .* bytes a second, and 10000 are waited for"),
        (DOWNLOAD, {"drip": 0.02}, "it sent .* bytes a second, and 10000 are waited for"),
        (DOWNLOAD, {"cut": 10, "stall": 5}, "timed out"),
    ],
)
def test_a_hub_that_says_nothing_or_little_is_left(server, tmp_path, impatient, where, fault, message):
    server.fault(where, times=math.inf, **fault)
    start = time.monotonic()
    with pytest.raises(patience.Unreachable, match=f"the hub failed 2 times, last: ({message})"):
        fetch_one(tmp_path)
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (
            {"status": 429, "retry_after": 100_000},
            client.Unavailable,
            r"org/model/.*: the hub asks to wait for 100000 s",
        ),
        ({"drip": 0.02}, TimeoutError, "bytes a second, and 10000 are waited for"),
    ],
)
def test_what_datasets_reads_is_bounded_too(server, impatient, fault, error, message):
    files = HfFileSystem(endpoint=server.endpoint, skip_instance_cache=True)
    server.fault(DOWNLOAD, times=math.inf, method="GET", **fault)
    with pytest.raises(error, match=message), files.open("org/model@step1/config.json") as file:
        file.read()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
AROUND = {"extension": CHUNKED + b"5;", "trailer": CHUNKED + b"5\r\nhello\r\n0\r\nX: ", "header": CHUNKED[:-2] + b"X: "}
LATE = r"it sent \d+ bytes a second, and 10000 are waited for|no answer within 0.3 s"


@pytest.mark.parametrize("raw", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("where", [LISTING, DOWNLOAD])
def test_what_is_around_the_content_drips_not_for_ever(server, tmp_path, impatient, where, raw):
    """A parser of HTTP gives nothing of it to its reader, and each byte resets the timeouts of a connection."""
    server.fault(where, times=math.inf, raw=raw, drip=0.02)
    with pytest.raises(patience.Unreachable, match=f"the hub failed 2 times, last: ({LATE})"):
        fetch_one(tmp_path)


@pytest.mark.parametrize("raw", AROUND.values(), ids=AROUND)
def test_nor_for_datasets(server, impatient, raw):
    files = HfFileSystem(endpoint=server.endpoint, skip_instance_cache=True)
    server.fault(DOWNLOAD, times=math.inf, method="GET", raw=raw, drip=0.02)
    with pytest.raises(TimeoutError, match=LATE), files.open("org/model@step1/config.json") as file:
        file.read()


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\n".encode()


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://localhost/a", "mailto:x@y", "/api/models/org/model/revision/step1"]
)
def test_a_redirect_to_nowhere_is_final(server, to):
    fault = server.fault(LISTING, times=math.inf, raw=redirect(to) + b"Content-Length: 0\r\n\r\n")
    with pytest.raises(client.Unavailable, match=r"org/model at revision step1: the hub leads to no file"):
        client.describe_revision(REPO, "step1")
    asked = 1 + patience.MOST_REDIRECTS * to.startswith("/")
    most = patience.ATTEMPTS * asked  # which it reaches where it is not final; what closes early may be tried again
    assert asked <= fault.hits < most


def test_the_content_of_a_redirect_is_not_kept(server):
    endless = redirect("/api/models/org/model/revision/main?blobs=True")
    endless += b"Content-Length: 1000000000\r\n\r\n" + bytes(10**6)
    server.add(REPO, "main", FILES)
    server.fault("step1", raw=endless)
    assert client.describe_revision(REPO, "step1")["commit"] == server.repos[REPO].branches["main"]


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..b", "xn--a", "127.0.0.1:" + "9" * 25])
def test_a_redirect_to_no_name_of_a_host_is_final(server, tmp_path, host):
    found = client.describe_revision(REPO, "step1")
    for where in (LISTING, DOWNLOAD):
        server.fault(where, raw=redirect(f"http://{host}/x") + b"Content-Length: 0\r\n\r\n")
    with pytest.raises(client.Unavailable, match=r"org/model at revision step1: the hub leads to no file"):
        client.describe_revision(REPO, "step1")
    with pytest.raises(client.Unavailable, match=r"config\.json: the hub leads to no file"):
        client.fetch_file(REPO, found["commit"], "config.json", found["files"]["config.json"], tmp_path / "state")


@pytest.mark.filterwarnings("error")
def test_cookies_are_not_kept(server):
    cookies = b"Set-Cookie: a=b; Max-Age=" + b"9" * 400 + b"\r\nSet-Cookie: c=d\r\n"
    server.fault(LISTING, raw=b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n" + cookies + b"\r\n")
    with pytest.raises(client.Unavailable):
        client.describe_revision(REPO, "step1")
    assert "cookie" not in str(server.requests).lower()
    assert not get_session().cookies


def packed(start: bytes, content: bytes) -> bytes:
    """An answer whose content unpacks to another size."""
    content = gzip.compress(gzip.compress(content))
    return start + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(content) + content


STARTS = [redirect("/api/models/org/model/revision/main?blobs=True"), b"HTTP/1.1 503 Busy\r\n", b"HTTP/1.1 200 OK\r\n"]


@pytest.mark.parametrize("start", STARTS, ids=["redirect", "error", "answer"])
def test_nothing_is_unpacked(server, monkeypatch, start):
    """A hundred kilobytes can unpack to gigabytes; this process asks for plain content, and takes it as it comes."""
    monkeypatch.setattr(patience, "sleep", lambda seconds: None)
    server.add(REPO, "main", FILES)
    decoders = []
    monkeypatch.setattr("httpx._models.SUPPORTED_DECODERS", {"gzip": lambda: decoders.append(1)})
    server.fault("step1", raw=packed(start, bytes(10**6)))
    with contextlib.suppress(client.Unavailable):
        client.describe_revision(REPO, "step1")
    server.fault("step1", raw=packed(start, bytes(10**6)))
    with contextlib.suppress(client.Unavailable, HfHubHTTPError, httpx.HTTPError):
        HfApi(endpoint=server.endpoint).model_info(REPO, revision="step1")
    assert decoders == []


def test_warnings_that_steer_a_terminal_are_left_out(server, caplog):
    server.add(REPO, "main", FILES)
    start = b"HTTP/1.1 503 Busy\r\nX-HF-Warning: x; \x1b]0;OWNED\x07\x1b[2J\r\nContent-Length: 0\r\n\r\n"
    server.fault("step1", raw=start)
    with contextlib.suppress(client.Unavailable, HfHubHTTPError, httpx.HTTPError):
        HfApi(endpoint=server.endpoint).model_info(REPO, revision="step1")
    assert "OWNED" not in caplog.text


def test_words_of_a_hub_are_marked_as_its_own(server, monkeypatch):
    monkeypatch.setattr(patience, "ATTEMPTS", 1)
    said = b"HTTP/1.1 500 Broken\r\nX-Error-Message: run rm -rf /; set HF_TOKEN\r\nContent-Length: 0\r\n\r\n"
    server.fault(LISTING, raw=said)
    message = "the hub failed 1 times, last: status 500, the hub says 'run rm -rf /; set HF_TOKEN'"
    with pytest.raises(patience.Unreachable, match=re.escape(message) + "$"):
        client.describe_revision(REPO, "step1")


def test_an_answer_has_to_begin(server, impatient, monkeypatch, tmp_path):
    """Also where its first lines come a byte at a time, which no timeout of the connection sees."""
    monkeypatch.setattr(patience, "TIMEOUT", 60)
    server.fault(DOWNLOAD, delay=5, times=math.inf)
    with pytest.raises(patience.Unreachable, match=r"the hub failed 2 times, last: no answer within 0\.3 s"):
        fetch_one(tmp_path)


def test_what_comes_fast_enough_may_take_its_time(server, tmp_path, impatient, monkeypatch):
    monkeypatch.setattr(patience, "SLOWEST", 5)
    server.fault(DOWNLOAD, drip=0.003)
    assert fetch_one(tmp_path).read_bytes() == FILES["config.json"]


def test_the_command_ends_where_a_hub_accepts_and_says_nothing(server, impatient, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["propose", REPO])
    server.fault("/refs", delay=5, times=math.inf)
    with pytest.raises(SystemExit, match="propose: org/model: the hub failed 2 times"):
        propose.main()


def test_a_part_that_a_hub_does_not_go_on_with_is_fetched_anew(server, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/config.json.part").write_bytes(b"{")
    server.fault(DOWNLOAD, status=416)
    assert fetch_one(tmp_path).read_bytes() == FILES["config.json"]
    assert [wanted for _, address, wanted, _ in server.requests if re.search(DOWNLOAD, address)] == ["bytes=1-", None]
    (tmp_path / "state/config.json").unlink()
    server.fault(DOWNLOAD, status=416)
    with pytest.raises(client.Unavailable, match="the hub answers 416"):
        fetch_one(tmp_path)


def test_a_file_without_end_is_left_where_it_should_end(server, tmp_path):
    server.fault(DOWNLOAD, says=bytes(10**7), times=2)
    with pytest.raises(client.Unavailable, match="came twice with another hash or size than the hub itself says"):
        fetch_one(tmp_path)
    assert not list((tmp_path / "state").glob("config*"))


# Locks


def test_a_lock_that_was_edited_is_named(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = client.resolve(REPO, "step1", client.model_files)
    path = locks.write("config/trajectories", "run", {"revisions": {"step1": found}})
    for wrong in ({"blob": "0" * 40}, {"bytes": 5}, {"bytes": 10**6}):
        found["files"]["config.json"] |= wrong
        with pytest.raises(client.Unavailable) as refused:
            client.fetch_files(found, tmp_path / "state")
        said = str(refused.value)
        assert f"config.json, locked in {path} came twice with another hash or size than the lock says" in said
        assert "delete its entry there and run `make resolve`" in said
        assert "the hub itself says" not in said
    other = found | {"commit": "0" * 40}
    locks.write("config/trajectories", "run", {"revisions": {"step1": other}})
    with pytest.raises(client.Unavailable, match=f"locked in {path}: the hub has no such revision or file"):
        client.fetch_files(other, tmp_path / "state")


# Proposals


def proposed(server, names=("step1",), **config):
    """The proposal for a repository with some branches and a config, and that it has nothing but what one may have."""
    for name in names:
        server.add(REPO, name, FILES | {"config.json": json.dumps(CONFIG | config).encode()})
    text = propose.propose(REPO)
    content = yaml.safe_load(text)
    assert content.keys() <= PROPOSED
    assert not content.get("remote_code")
    assert content["repo"] == REPO
    return text, content


PIN = "\nremote_code: {evil.py: " + "0" * 64 + "}\n"


@pytest.mark.parametrize(
    "kind", ["x" + PIN, "llama\n", "x\rremote_code: 1", "x\u2028y: 1", {"a": 1}, ["llama"], 7, "", "x" * 101]
)
def test_a_model_type_is_a_word(server, kind, canary):
    config = CONFIG | {"model_type": kind, "auto_map": {"AutoModelForCausalLM": "evil.X"}}
    code = f"open({str(canary)!r}, 'w').write('propose')".encode()
    server.add(REPO, "step1", FILES | {"config.json": json.dumps(config).encode(), "evil.py": code})
    with pytest.raises(client.Unavailable, match=r"org/model at step1: its config.json names no `model_type` of"):
        propose.propose(REPO)


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": "64" + PIN, "num_hidden_layers": {"remote_code": 1}, "vocab_size": [1], "torch_dtype": PIN},
        {"hidden_size": -1, "num_hidden_layers": True, "vocab_size": 1e9, "torch_dtype": ["float32"]},
        {"hidden_size": 10**400, "num_hidden_layers": math.nan, "vocab_size": None, "torch_dtype": {"a": 1}},
    ],
)
def test_sizes_of_a_config_are_numbers_or_left_out(server, config):
    _, content = proposed(server, **config)
    assert content["model"] == {"architecture": "llama", "parameters": 500, "context": 4096}


def test_names_of_code_are_comment(server):
    name = "evil: {x}, '#.py"
    files = FILES | {"config.json": json.dumps(CONFIG | {"model_type": "own", "auto_map": {}}).encode(), name: b""}
    server.add(REPO, "step1", files)
    content = yaml.safe_load(propose.propose(REPO))
    assert content["remote_code"] == {}


def test_a_branch_with_a_line_end_is_none(server):
    server.add(REPO, f"step1{PIN}", FILES)
    with pytest.raises(client.Unavailable, match=r"`branches\.1\.name`: .* is no name of a branch or tag"):
        propose.propose(REPO)


def test_steps_of_any_length(server):
    _, content = proposed(server, ["step1", "step" + "9" * 200, "step2-tokens" + "9" * 200 + "B"])
    assert content["revisions"]["all"] == ["step1"]


@pytest.mark.parametrize(
    "content", [b"[]", b"<html>", b"\xff", b"[" * 100_000, b'{"model_type": ' + b"1" * 5000 + b"}"]
)
def test_a_config_that_is_no_object(server, content):
    server.add(REPO, "step1", FILES | {"config.json": content})
    with pytest.raises(client.Unavailable, match=r"org/model at .*: config\.json (is not|is nested|holds no) "):
        propose.propose(REPO)


@given(st.text(), st.text())
@settings(max_examples=1000, database=None)
def test_what_is_said_is_one_comment(one, other):
    said = propose.say("# {one} {other}\n", one=one, other=other)
    assert yaml.safe_load(said + "key: 1\n") == {"key": 1}
    assert said.count("\n") == 1


ONE = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = ONE | st.lists(ONE, max_size=2) | st.dictionaries(st.text(), ONE, max_size=2)
KEYS = st.sampled_from([*SHAPE, "torch_dtype", "dtype", "auto_map", "remote_code"]) | st.text()


@given(st.dictionaries(KEYS, VALUES))
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_config_gives_a_pin(server, config):
    proposed(server, **config | {"model_type": "llama"})


# What chooses code


@pytest.mark.parametrize(
    "keys",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel:f"},
        {"attn_implementation": {"": "evil/kernel"}},
        {"experts_implementation": "evil/kernel", "_experts_implementation_internal": "evil/kernel"},
        {"use_kernels": True, "kernel_config": {"RMSNorm": "evil/kernel:Norm"}},
        {"fusion_config": {"evil": True}},
        {"other_config": {"attn_implementation": "evil/kernel", "kept": 1}},
    ],
)
def test_what_chooses_code_is_left_out(own_config, keys, tmp_path, tiny_model):
    folder = own_config(**keys)
    text = (folder / "config.json").read_text()
    assert "evil" not in text
    assert ("kept" in text) == ("other_config" in keys)
    load_empty(folder)
    load_dense(folder)
    assert "evil" not in (folder / "config.json").read_text()
    source = tmp_path / "source"  # a folder of a user's
    publish(tiny_model, source, {})
    (source / "config.json").unlink()
    config = json.loads((tiny_model / "config.json").read_text()) | keys
    (source / "config.json").write_text(json.dumps(config))
    publish(source, tmp_path / "published", {})
    assert json.loads((tmp_path / "published/config.json").read_text()) == json.loads(text)
    assert json.loads((source / "config.json").read_text()) == config  # as it was


@pytest.mark.parametrize(
    "keys", [{}, {"attn_implementation": "eager"}, {"_attn_implementation": "sdpa"}, {"use_kernels": False}]
)
def test_an_honest_config_stays_byte_for_byte(own_config, server, keys):
    folder = own_config(**keys)
    commit = server.repos[REPO].branches["main"]
    assert (folder / "config.json").read_bytes() == server.repos[REPO].commits[commit]["config.json"].path.read_bytes()


# Tokenizers


@pytest.fixture
def take_tokenizer(server, tmp_path):
    """A function that publishes a tokenizer's files, fetches it and gives its folder."""

    def run(files):
        server.add("org/tokenizer", "main", files)
        places = (str(tmp_path / "tokenizer"), str(tmp_path / "manifest.json"))
        fetch_tokenizer("org/tokenizer", None, tmp_path / "tokenizer-state", "org--tokenizer", *places)
        return tmp_path / "tokenizer"

    return run


def tokenizer_with(tiny_tokenizer, tmp_path, **keys):
    """The files of a tokenizer with some keys of its config."""
    tiny_tokenizer.save_pretrained(tmp_path / "source")
    path = tmp_path / "source/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()}


TEMPLATES = [
    [{"name": "default", "template": "D"}, {"name": "../../tool_use", "template": "T"}],
    [{"name": "default", "template": "D"}, {"name": "a" * 300, "template": "T"}],
    {"default": 5},
    ["a"],
    [{"name": "default"}],
    [5],
]


@pytest.mark.parametrize("templates", TEMPLATES)
def test_chat_templates_are_left_out(take_tokenizer, own_config, tiny_tokenizer, tmp_path, templates):
    files = tokenizer_with(tiny_tokenizer, tmp_path, chat_template=templates)
    folder = take_tokenizer(files | {"additional_chat_templates/rag.jinja": b"R"})
    assert all(path.is_file() for path in folder.iterdir())
    assert AutoTokenizer.from_pretrained(folder).chat_template is None
    assert load_tokenizer(own_config())("w5 w7").input_ids == [5, 7]


def test_code_of_a_tokenizer_is_not_run(take_tokenizer, tiny_tokenizer, tmp_path, canary):
    code = f"open({str(canary)!r}, 'w').write('tokenizer')".encode()
    files = tokenizer_with(tiny_tokenizer, tmp_path, auto_map={"AutoTokenizer": ["evil.T", None]}, tokenizer_class="T")
    with contextlib.suppress(ValueError):  # whether it loads without the code is up to transformers
        load_tokenizer(take_tokenizer(files | {"evil.py": code}))
    assert not canary.exists()


def test_code_of_a_model_is_not_run(server, own_config, canary):
    code = f"open({str(canary)!r}, 'w').write('model')".encode()
    server.add(REPO, "main", {"evil.py": code})
    folder = own_config(auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "org/evil--evil.M"})
    load_dense(folder)
    assert not canary.exists()


def hooks():
    return [hook.__name__ for hooks in get_session().event_hooks.values() for hook in hooks]


def test_a_child_speaks_by_the_bounded_client_too():
    """As that in which a corpus is read."""
    assert {"keep_token", "mark", "bound", "require_names"} <= set(streamed(hooks, 10**9, 60))


SPEAKERS = {"huggingface_hub", "load_dataset", "load_dataset_builder", "snapshot_download", "hf_hub_download", "HfApi"}


def test_nothing_speaks_to_a_hub_by_another_client():
    """What asks a hub does so by scripts/lib/hub, or has imported it; what reads models asks for local files alone."""
    words = {}
    for path in Path("scripts").rglob("*.py"):
        with tokenize.open(path) as file:
            tokens = tokenize.generate_tokens(file.readline)
            words[path.as_posix()] = {token.string for token in tokens if token.type == tokenize.NAME}
    asks = {path for path, names in words.items() if names & SPEAKERS}
    assert asks == {"scripts/lib/hub/client.py", "scripts/lib/hub/patience.py", "scripts/corpus.py"}
    for path in asks - {"scripts/lib/hub/patience.py"}:
        assert re.search(r"^from scripts\.lib\.hub\.(client|patience) import", Path(path).read_text(), re.MULTILINE)
    for path in [path for path, names in words.items() if "from_pretrained" in names]:
        assert re.search(r"local_files_only|HF_HUB_OFFLINE|from_pretrained\(\s*None", Path(path).read_text()), path


def test_loading_asks_no_hub(own_config, server):
    folder = own_config()
    server.requests.clear()
    load_dense(folder, "float32")
    load_tokenizer(folder)
    load_empty(folder)
    assert server.requests == []
