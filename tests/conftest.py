"""Small real models and corpora that the unit tests share, and the smoke study, run once for real."""

import gc
import os
import shutil

import numpy as np
import polars
import pytest
import torch
from filelock import FileLock
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from xdist.scheduler import LoadScopeScheduling

from tests.tools import copy_tree, snakemake

# Where Slurm is installed and no controller is up, its plugin waits 10 s for one at each start of Snakemake: an empty
# configuration ends that at once. The cluster of tests/slurm takes the variable away.
os.environ["SLURM_CONF"] = os.devnull

LONGEST = ("test_quantize", "test_prefetch", "test_hub", "test_kills", "test_reruns")  # minutes each
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="session", autouse=True)
def canary(tmp_path_factory):
    """A path that the code of malicious repositories writes to; nothing is there when all tests are done."""
    path = tmp_path_factory.mktemp("canary") / "code-of-a-hub-ran"
    yield path
    assert not path.exists(), "code of a hub ran in this session, in the test that wrote this: " + path.read_text()


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A word tokenizer of 64 tokens with an end-of-text token."""
    words = {"<|endoftext|>": 0} | {f"w{number}": number for number in range(1, 64)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w1"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>")


@pytest.fixture(scope="session", params=["llama", "gpt_neox"])
def tiny_model(request, tmp_path_factory, tiny_tokenizer):
    """Folder of a random model of each architecture: 2 blocks, width 32, 64 tokens, context 64."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, vocab_size=64, max_position_embeddings=64, **SHAPE)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("models") / request.param
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def new_process():
    """Lets the gate of `quantize` start a Python of its own, as it does where more than one thread computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def token_stream(tmp_path):
    """A token stream of 100 documents of about 50 tokens, with its document index; returns the path of the stream."""
    draw = np.random.default_rng(0)
    sizes = draw.integers(5, 100, size=100)
    np.save(tmp_path / "stream.npy", draw.integers(1, 64, size=sizes.sum()).astype(np.uint16))
    index = {
        "document": [f"{number:016x}" for number in range(100)],
        "start": np.cumsum(sizes) - sizes,
        "tokens": sizes,
        "characters": sizes,
        "bytes": sizes,
    }
    polars.DataFrame(index).write_parquet(tmp_path / "stream-documents.parquet")
    return tmp_path / "stream.npy"


def pytest_collection_finish():
    """What has been imported stays: no garbage collection has to look at it, and libraries order many."""
    gc.freeze()


class ByFile(LoadScopeScheduling):
    """The tests of a file go to one process, and so do all that share the Slurm cluster."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "tests/slurm" if file.startswith("tests/slurm/") else file


def pytest_collection_modifyitems(items):
    """The longest files of each folder first, so that all processes end together."""
    folders = list(dict.fromkeys(item.path.parent for item in items))
    items.sort(key=lambda item: (folders.index(item.path.parent), item.path.stem not in LONGEST))


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """A tree in which the smoke study has been run to its report, once for all test processes; not to be changed."""
    base = tmp_path_factory.getbasetemp()
    tree = (base if worker_id == "master" else base.parent) / "smoke"
    with FileLock(f"{tree}.lock"):
        if not tree.exists():
            shown = snakemake(copy_tree(tree.with_name("smoke-unfinished")), "smoke")
            tree.with_name("smoke-terminal.txt").write_text(shown)
            tree.with_name("smoke-unfinished").rename(tree)
    return tree


@pytest.fixture
def tree(finished, tmp_path):
    """A copy of the finished tree that a test may change; times are kept, as they are on a user's disk."""
    return shutil.copytree(finished, tmp_path / "tree", symlinks=True)
