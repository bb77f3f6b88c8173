"""The stand-in for the Hub, seen by the real client; also on record: what that client survives by itself."""

import hashlib
import math
import random
import urllib.error
import urllib.request
from types import SimpleNamespace

import httpx
import pytest
from huggingface_hub import HfApi, constants, file_download, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import _http

from tests.hub import connect
from tests.hub.server import Hub

REPO = "org/model"
BRANCH = "stage1/step1.5-tokens3B"
WEIGHTS = random.Random(0).randbytes(200_000)
CONFIG = b'{"hidden_size": 32}'
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS, "onnx/notes.txt": b"a\n"}
STORE = r"^/lfs/"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model; without telemetry, the client does not look for huggingface.co."""
    with Hub(tmp_path / "hub") as hub:
        connect(hub, monkeypatch)  # the only one that gets a token
        hub.add(REPO, BRANCH, FILES)
        yield hub


@pytest.fixture
def waits(monkeypatch):
    """The pauses that the client would make before it tries again, in seconds; none is made."""
    waits = []
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture
def download(hub, tmp_path):
    """Download a file through the client's cache and return its bytes."""

    def download(name="model.safetensors", revision=BRANCH, token=False, **options):
        options = {"cache_dir": tmp_path / "cache"} | options
        path = hf_hub_download(REPO, name, revision=revision, endpoint=hub.endpoint, token=token, **options)
        with open(path, "rb") as file:
            return file.read()

    return download


def api(hub):
    return HfApi(endpoint=hub.endpoint, token=False)


def downloads(hub):
    """The Range headers of the downloads from the LFS store."""
    return [wanted for method, address, wanted, _ in hub.requests if method == "GET" and address.startswith("/lfs/")]


# --- content ----------------------------------------------------------------------------------------------------------


def test_a_branch_leads_to_its_commit(hub):
    commit = hub.repos[REPO].branches[BRANCH]
    assert api(hub).model_info(REPO, revision=BRANCH).sha == commit
    assert api(hub).repo_info(REPO, revision=commit).sha == commit
    main = hub.add(REPO, "main", {"config.json": b"{}"})
    hub.repos[REPO].tags["v1.0"] = commit
    refs = api(hub).list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {BRANCH: commit, "main": main}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("v1.0", commit)]
    assert api(hub).model_info(REPO).sha == main
    assert api(hub).model_info(REPO, revision="v1.0").sha == commit


def test_listings_tell_sizes_and_checksums(hub):
    files = {file.rfilename: file for file in api(hub).model_info(REPO, revision=BRANCH, files_metadata=True).siblings}
    assert {name: file.size for name, file in files.items()} == {name: len(FILES[name]) for name in FILES}
    assert files["model.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert files["config.json"].lfs is None
    assert files["config.json"].blob_id == hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest()
    assert {file.size for file in api(hub).model_info(REPO, revision=BRANCH).siblings} == {None}
    tree = {file.path: file for file in api(hub).list_repo_tree(REPO, revision=BRANCH, recursive=True)}
    assert {name: (file.size, file.lfs, file.blob_id) for name, file in tree.items()} == {
        name: (file.size, file.lfs, file.blob_id) for name, file in files.items()
    }


@pytest.mark.parametrize("name", FILES)
def test_a_file_arrives(hub, download, tmp_path, name):
    commit = hub.repos[REPO].branches[BRANCH]
    assert download(name, commit) == FILES[name]
    assert download(name, BRANCH, local_dir=tmp_path / "local", cache_dir=None) == FILES[name]
    assert (tmp_path / "local" / name).read_bytes() == FILES[name]


def test_a_folder_can_be_added(hub, tmp_path):
    commit = hub.repos[REPO].branches[BRANCH]
    folder = snapshot_download(REPO, revision=BRANCH, endpoint=hub.endpoint, cache_dir=tmp_path / "c", token=False)
    assert hub.add(REPO, "copy", next((tmp_path / "c").rglob(commit))) == commit
    assert folder.endswith(commit)


def test_a_moved_branch_leaves_its_old_commit(hub, download):
    old = hub.repos[REPO].branches[BRANCH]
    new = hub.move(REPO, BRANCH, {"model.safetensors": WEIGHTS[::-1]})
    assert api(hub).model_info(REPO, revision=BRANCH).sha == new != old
    assert download() == WEIGHTS[::-1]
    assert download(revision=old) == WEIGHTS
    assert hub.move(REPO, BRANCH, FILES) == old


@pytest.mark.parametrize("address", ["{endpoint}/org/model/resolve/{commit}/model.safetensors", "{store}"])
def test_ranges(hub, address):
    commit = hub.repos[REPO].branches[BRANCH]
    store = f"{hub.endpoint}/lfs/{hashlib.sha256(WEIGHTS).hexdigest()}?repo={REPO}&commit={commit}"
    address = address.format(endpoint=hub.endpoint, commit=commit, store=f"{store}&filename=model.safetensors")

    def get(wanted):
        return urllib.request.urlopen(urllib.request.Request(address, headers={"Range": wanted}))

    with get("bytes=199000-") as answer:
        assert (answer.status, answer.read()) == (206, WEIGHTS[199_000:])
        assert answer.headers["Content-Range"] == "bytes 199000-199999/200000"
    with get("bytes=5-9") as answer:
        assert answer.read() == WEIGHTS[5:10]
    with pytest.raises(urllib.error.HTTPError, match="416") as refused:
        get("bytes=200000-")
    assert refused.value.headers["Content-Range"] == "bytes */200000"
    refused.value.close()


# --- what is not there, or not for everybody --------------------------------------------------------------------------


def test_what_is_missing(hub, download):
    with pytest.raises(RevisionNotFoundError):
        api(hub).model_info(REPO, revision="nowhere")
    with pytest.raises(RevisionNotFoundError):
        download(revision="nowhere")
    with pytest.raises(RemoteEntryNotFoundError):
        download("nothing.json")
    with pytest.raises(RepositoryNotFoundError):
        api(hub).model_info("org/nobody")


def test_a_gated_repo_is_for_its_token_only(hub, download):
    hub.repos[REPO].token = "hf_right"
    for token in (False, "hf_wrong"):
        with pytest.raises(GatedRepoError):
            download(token=token)
    assert api(hub).model_info(REPO, revision=BRANCH).gated == "manual"
    assert download(token="hf_right") == WEIGHTS
    assert [has_token for *_, has_token in hub.requests[-2:]] == [True, False]  # none is told to the store


def test_a_refusal_can_be_a_fault(hub):
    refusal = hub.fault("/api/models/", status=403, code="GatedRepo", times=2)
    for _ in range(2):
        with pytest.raises(GatedRepoError):
            api(hub).model_info(REPO, revision=BRANCH)
    assert api(hub).model_info(REPO, revision=BRANCH).sha
    assert refusal.hits == 2


# --- what the client survives, and what not ---------------------------------------------------------------------------


def test_a_cut_connection_is_resumed(hub, download, waits, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    hub.fault(STORE, cut=150_000)
    assert download() == WEIGHTS
    first, second = downloads(hub)
    assert first is None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 150_000
    assert waits == [1]


def test_a_cut_within_the_clients_buffer_starts_again(hub, download, waits):
    """It writes pieces of 10 MiB, and forgets those bytes of a cut answer that fill none."""
    hub.fault(STORE, cut=150_000)
    assert download() == WEIGHTS
    assert downloads(hub) == [None, None]


def test_repeated_cuts_end_in_an_error_and_leave_nothing(hub, download, waits, tmp_path):
    hub.fault(STORE, cut=1000, times=math.inf)
    with pytest.raises(httpx.RemoteProtocolError):
        download()
    assert len(downloads(hub)) == 6
    assert not [path for path in tmp_path.glob("cache/models--*/blobs/*") if path.is_file()]


def test_a_reset_connection_is_an_error_at_once(hub, download, waits):
    hub.fault(STORE, cut=1000, reset=True)
    with pytest.raises(httpx.ReadError):
        download()
    assert len(downloads(hub)) == 1


def test_too_many_requests_for_a_file(hub, download, waits):
    """HEAD is tried again without a pause, first; the download waits as long as it is told and a second."""
    hub.fault("/resolve/", status=429, retry_after=7)
    hub.fault(STORE, status=429, retry_after=2)
    assert download() == WEIGHTS
    assert waits == [3]
    assert [method for method, *_ in hub.requests] == ["HEAD", "HEAD", "GET", "GET"]


def test_an_unavailable_store_is_an_error_at_once(hub, download, waits):
    hub.fault(STORE, status=503)
    with pytest.raises(HfHubHTTPError, match="503"):
        download()
    assert (len(downloads(hub)), waits) == (1, [])
    assert download() == WEIGHTS


def test_unavailable_metadata_of_a_file(hub, download, waits):
    hub.fault("/resolve/", status=503, times=3)
    assert download() == WEIGHTS
    assert waits == [1, 2]
    del hub.requests[:], waits[:]
    hub.fault("/resolve/", status=503, times=math.inf)
    with pytest.raises(LocalEntryNotFoundError):
        download("config.json")
    assert (len(hub.requests), waits) == (7, [1, 2, 4, 8, 8])


@pytest.mark.parametrize("status", [429, 503])
def test_a_listing_is_not_tried_again(hub, waits, status):
    hub.fault("/api/", status=status, retry_after=1)
    with pytest.raises(HfHubHTTPError, match=str(status)) as refused:
        api(hub).model_info(REPO, revision=BRANCH)
    assert refused.value.response.headers["Retry-After"] == "1"
    assert (len(hub.requests), waits) == (1, [])


def test_the_client_does_not_see_wrong_bytes(hub, download):
    hub.fault(STORE, corrupt=True)
    assert download() == WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_size_is_an_error(hub, download, name):
    hub.fault(f"/resolve/.*{name}", missing=5)
    with pytest.raises(OSError, match="Consistency check failed"):
        download(name)
    hub.fault("/api/", missing=5)
    sizes = [
        {file.rfilename: file.size for file in api(hub).model_info(REPO, revision=BRANCH, files_metadata=True).siblings}
        for _ in range(2)
    ]
    assert [size[name] for size in sizes] == [len(FILES[name]) - 5, len(FILES[name])]


def test_simultaneous_downloads_are_counted(hub, tmp_path):
    commit = hub.add(REPO, "wide", {f"{number}.bin": bytes([number]) for number in range(6)})
    hub.fault(STORE, delay=0.3, times=math.inf)
    options = {"endpoint": hub.endpoint, "cache_dir": tmp_path / "cache", "token": False}
    snapshot_download(REPO, revision=commit, max_workers=3, **options)
    assert hub.most_at_once == 3
