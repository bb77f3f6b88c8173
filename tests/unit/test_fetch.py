"""hub and fetch: every fault of a hub ends in the right bytes or in one clear error, and nothing fetched is lost."""

import json
import pickle
import random
import shutil
import threading

import httpx
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import load_file, save, save_file

from scripts.fetch import apart, fetch
from scripts.lib.hub import client, patience
from tests.hub import connect
from tests.hub.server import Hub

REPO = "org/model"
TENSORS = {"a.weight": torch.arange(50_000.0).reshape(100, 500), "b.weight": torch.ones(3)}
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": save(TENSORS, metadata={"format": "pt"}),
    "tokenizer.json": b"{}",
    "optimizer.pt": b"not wanted",
    "README.md": b"not wanted",
}
WEIGHTS = r"^/lfs/"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as server:
        server.add(REPO, "main", FILES)
        connect(server, monkeypatch)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        yield server


@pytest.fixture
def take(tmp_path):
    """A function that resolves and fetches a revision and gives the tensors of its folder."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/tokenizer.json").write_text("{}")

    def run(revision="main", resolved=None):
        resolved = resolved or client.resolve(REPO, revision, client.model_files)
        fetch(resolved, tmp_path / "tokenizer", tmp_path / "state", tmp_path / "model", {})
        shutil.rmtree(tmp_path / "state")
        return load_file(tmp_path / "model/model.safetensors")

    return run


def is_whole(tensors):
    return tensors.keys() == TENSORS.keys() and all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def downloads(server):
    return [wanted for method, address, wanted, _ in server.requests if method == "GET" and address.startswith("/lfs/")]


def test_only_what_is_needed_is_fetched(server, take, tmp_path):
    assert is_whole(take())
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    asked = {address.rpartition("/")[2] for method, address, *_ in server.requests if "/resolve/" in address}
    assert asked == {"config.json", "model.safetensors"}


def test_a_revision_may_be_called_anything(server, take, tmp_path):
    for revision in ("stage1/step1.5-tokens3B", "../../up", "a..b"):
        server.add(REPO, revision, FILES)
        assert is_whole(take(revision))
    assert {path.name for path in tmp_path.iterdir()} == {"hub", "tokenizer", "model"}


@pytest.mark.parametrize(
    "fault",
    [
        {"cut": 70_000},
        {"cut": 70_000, "reset": True},
        {"status": 429, "retry_after": 0},
        {"status": 503, "times": 3},
        {"corrupt": True},
    ],
)
def test_what_passes_is_survived(server, take, fault):
    met = server.fault(WEIGHTS, **fault)
    assert is_whole(take())
    assert met.hits == met.times


def test_a_listing_is_asked_for_again(server, take):
    server.fault(r"^/api/", status=429, retry_after=0)
    server.fault(r"^/api/", status=502, times=2)
    assert is_whole(take())


def test_a_hub_that_asks_for_hours_is_not_waited_for(server, take):
    server.fault(r"^/api/", status=429, retry_after=86_400)
    with pytest.raises(client.Unavailable, match="the hub asks to wait for 86400 s; run again then"):
        take()


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    whole = torch.arange(6.0).reshape(2, 3)
    torch.save({"a": whole, "tied": whole, "turned": whole.t(), "part": whole[1]}, tmp_path / "w.bin")
    tensors = torch.load(tmp_path / "w.bin", weights_only=True, mmap=True)
    save_file(apart(tensors), tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_waits_are_those_that_the_hub_names_and_else_grow_to_minutes():
    def failed(**headers):
        return HfHubHTTPError(
            "busy", response=httpx.Response(429, headers=headers, request=httpx.Request("GET", "http://hub"))
        )

    assert patience.wait_before(1, failed(ratelimit='"api";r=0;t=55')) == 56
    assert patience.wait_before(1, failed(**{"Retry-After": "7"})) == 7
    waits = [patience.wait_before(attempt, OSError()) for attempt in range(1, patience.ATTEMPTS)]
    assert 120 < sum(waits) <= 270


def test_an_answer_that_is_none_of_the_hub_is_told_as_such(server, take):
    server.fault(r"^/api/", status=404, times=2)
    with pytest.raises(client.Unavailable, match="the hub answers 404; are its names right, and HF_ENDPOINT"):
        take()


def test_a_file_that_a_killed_job_had_of_another_commit_is_fetched_again(server, take, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/model.safetensors").write_bytes(b"of another commit")
    (tmp_path / "state/pytorch_model.bin").write_bytes(b"of another commit")
    assert is_whole(take())


def test_a_part_of_a_killed_job_is_gone_on_with(server, take, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/model.safetensors.part").write_bytes(FILES["model.safetensors"][:150_000])
    assert is_whole(take())
    assert downloads(server) == ["bytes=150000-"]


def test_what_is_there_is_not_fetched_again(server, take, tmp_path):
    server.fault(WEIGHTS, status=403, times=1)
    with pytest.raises(client.Unavailable, match=r"the hub refuses \(403\); set HF_TOKEN"):
        take()
    assert (tmp_path / "state/config.json").is_file()
    assert is_whole(take())
    asked = [address for method, address, *_ in server.requests if address.endswith("/config.json")]
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"corrupt": True, "times": 2}, "came twice with another hash"),
        ({"status": 503, "times": 99}, "the hub failed 6 times"),
        ({"status": 401, "code": "GatedRepo"}, "access is granted by its owners"),
    ],
)
def test_what_does_not_pass_is_one_clear_error(server, take, fault, message, tmp_path):
    server.fault(WEIGHTS, **fault)
    with pytest.raises(client.Unavailable, match=message):
        take()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [(REPO, "step7", "no such revision"), ("org/none", "main", "no such repository, or it is private|set HF_TOKEN")],
)
def test_what_is_not_there_is_named(server, repo, revision, message):
    with pytest.raises(client.Unavailable, match=message) as error:
        client.resolve(repo, revision, client.model_files)
    assert f"{repo} at revision {revision}" in str(error.value)


def test_a_gated_repository_opens_to_its_token(server, take, monkeypatch, caplog):
    server.repos[REPO].token = "hf_secret"
    with pytest.raises(client.Unavailable, match="access is granted by its owners"):
        take()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert is_whole(take())
    assert "hf_secret" not in caplog.text


def test_a_branch_that_moves_leaves_what_was_resolved(server, take):
    resolved = client.resolve(REPO, "main", client.model_files)
    server.move(REPO, "main", {**FILES, "model.safetensors": save({"other": torch.zeros(2)})})
    assert client.resolve(REPO, "main", client.model_files)["commit"] != resolved["commit"]
    assert is_whole(take(resolved=resolved))


def test_two_at_once_fetch_a_file_once(server, tmp_path):
    resolved = client.resolve(REPO, "main", client.model_files)
    server.fault(WEIGHTS, delay=0.3)
    threads = [threading.Thread(target=client.fetch_files, args=(resolved, tmp_path / "state")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(downloads(server)) == 1
    assert is_whole(load_file(tmp_path / "state/model.safetensors"))


def test_pickled_weights_become_safetensors(server, take, tmp_path):
    torch.save(TENSORS, tmp_path / "weights.bin")
    files = {"config.json": FILES["config.json"], "pytorch_model.bin": (tmp_path / "weights.bin").read_bytes()}
    server.add(REPO, "old", files)
    assert is_whole(take("old"))
    assert not list((tmp_path / "model").glob("*.bin"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_malicious_pickle_is_not_executed(server, take, canary):
    weights = pickle.dumps(Malicious(canary))
    server.add(REPO, "evil", {"config.json": FILES["config.json"], "pytorch_model.bin": weights})
    with pytest.raises(client.Unavailable, match="holds more than weights and is not opened"):
        take("evil")
    assert not canary.exists()


def test_own_code_is_not_run(server, take):
    config = CONFIG | {"auto_map": {"AutoModelForCausalLM": "modeling.Own"}}
    server.add(REPO, "native", FILES | {"config.json": json.dumps(config).encode(), "modeling.py": b"raise SystemExit"})
    assert is_whole(take("native"))
    server.add(REPO, "own", FILES | {"config.json": json.dumps(config | {"model_type": "opensci"}).encode()})
    with pytest.raises(client.Unavailable, match="no class `opensci`"):
        take("own")


def test_a_full_disk_is_said_as_it_is(server, take, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/model.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        take()
    assert (tmp_path / "state/config.json").is_file()
    (tmp_path / "state/model.safetensors.part").unlink()
    assert is_whole(take())


def test_small_files_are_checked_by_their_git_hash(server, tmp_path):
    content = random.Random(1).randbytes(5000)
    server.add(REPO, "small", {"config.json": content, "model.safetensors": FILES["model.safetensors"]})
    server.fault(r"config\.json", corrupt=True)
    resolved = client.resolve(REPO, "small", client.model_files)
    client.fetch_files(resolved, tmp_path / "state")
    assert (tmp_path / "state/config.json").read_bytes() == content
