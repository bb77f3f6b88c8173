"""fetch and publish on files of a hub, or of a user's folder, that lie: refused with a reason, and no more.

Real models of two classes, served by the local hub whole, then with one thing wrong.
"""

import io
import json
import os
import pickle
import re
import shutil
import signal
import struct
import zipfile
import zlib
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from transformers import AutoConfig, AutoModelForCausalLM

from scripts import fetch as fetching
from scripts.fetch import fetch_checkpoint
from scripts.lib.hub import client
from scripts.lib.models import folders, loadable
from scripts.lib.models.loading import load_dense
from scripts.publish import publish_own
from tests.hub import connect
from tests.hub.server import Hub

REPO, IDENTITY = "org/model", {"trajectory": "run", "checkpoint": "step-10", "source": "hub"}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


one_class = pytest.mark.parametrize("tiny_model", ["llama"], indirect=True)  # where the class makes no difference


@pytest.fixture
def server(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as server:
        connect(server, monkeypatch)
        yield server


@pytest.fixture
def files(tiny_model):
    """A whole model as a repository has it."""
    return {path.name: path.read_bytes() for path in tiny_model.iterdir()}


@pytest.fixture
def take(server, tmp_path, tiny_tokenizer):
    """A function that fetches a repository of some files and gives the checkpoint's manifest."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")

    def run(files, choose=client.model_files):
        server.add(REPO, "main", files)
        resolved = client.resolve(REPO, "main", choose)
        places = tmp_path / "tokenizer", tmp_path / "state", tmp_path / "model"
        manifest = fetch_checkpoint(resolved, *places, {}, IDENTITY)
        assert {path.name for path in tmp_path.iterdir()} == {"hub", "tokenizer", "state", "model"}
        return manifest

    return run


def require_refused(manifest: dict, folder: Path, message: str) -> None:
    assert manifest["status"] == "refused"
    assert re.search(message, manifest["reason"]), manifest["reason"]
    assert manifest["reason"].startswith(f"{REPO} at ")
    assert not re.search(r"weights_only|/state|\.tmp", manifest["reason"])
    assert list(folder.iterdir()) == []


def pickled(content: object, **settings) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **settings)
    return file.getvalue()


def header_of(content: bytes) -> tuple[dict, bytes]:
    """The header and the data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: str | dict, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def edited(content: bytes, **changes) -> bytes:
    """A config with other values."""
    return json.dumps(json.loads(content) | changes).encode()


def in_shards(files: dict, shards: tuple[str, str], write, index: str) -> dict:
    """A repository with its weights in two files, and their index."""
    tensors = load(files[WEIGHTS])
    where = {name: shards[number % 2] for number, name in enumerate(sorted(tensors))}
    parts = {shard: write({name: tensors[name] for name in where if where[name] == shard}) for shard in shards}
    others = {name: content for name, content in files.items() if name != WEIGHTS}
    return others | parts | {index: json.dumps({"metadata": {"total_size": 1}, "weight_map": where}).encode()}


save_weights = partial(save, metadata={"format": "pt"})


def whole(files):
    return files


def sharded(files):
    return in_shards(files, SHARDS, save_weights, INDEX)


def of_pickles(files):
    return in_shards(
        files, ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"), pickled, BIN_INDEX
    )


def of_old_pickle(files):
    rest = {name: content for name, content in files.items() if name != WEIGHTS}
    return rest | {BIN: pickled(load(files[WEIGHTS]), _use_new_zipfile_serialization=False)}


def of_one_numbered_pickle(files):
    rest = {name: content for name, content in of_old_pickle(files).items() if name != BIN}
    tensors, name = load(files[WEIGHTS]), "pytorch_model-00001-of-00001.bin"
    return rest | {name: pickled(tensors), BIN_INDEX: json.dumps({"weight_map": dict.fromkeys(tensors, name)}).encode()}


def with_others(files):
    """Further weights, as some publishers put beside theirs, and as transformers does not read them."""
    return sharded(files) | {"consolidated.safetensors": save({"other": torch.ones(2)})}


def with_a_stale_index(files):
    return files | {INDEX: json.dumps({"metadata": {}, "weight_map": {"a": "gone.safetensors"}}).encode()}


HONEST = [whole, sharded, of_pickles, of_old_pickle, of_one_numbered_pickle, with_others, with_a_stale_index]


@pytest.mark.parametrize("form", HONEST)
def test_whole_models_are_taken(take, files, form, tmp_path, tiny_model):
    manifest = take(form(files))
    assert manifest["status"] == "ok", manifest["reason"]
    found, expected = load_dense(tmp_path / "model").state_dict(), load_dense(tiny_model).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert manifest["files"].keys() >= {path.name for path in (tmp_path / "model").glob("*.safetensors")}
    assert not (tmp_path / "model/consolidated.safetensors").exists()


def test_old_buffers_and_tied_weights_are_taken(take, files, tmp_path):
    """What the class itself passes over: masks and frequencies in old files, a head that is the embedding."""
    config, tensors = json.loads(files["config.json"]), load(files[WEIGHTS])
    if config["model_type"] == "gpt_neox":
        of_block = "gpt_neox.layers.{}.attention."
        for block in range(2):
            tensors[of_block.format(block) + "bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool)
            tensors[of_block.format(block) + "masked_bias"] = torch.tensor(-1e9)
            tensors[of_block.format(block) + "rotary_emb.inv_freq"] = torch.ones(4)
    else:
        del tensors["lm_head.weight"]
        files = files | {"config.json": edited(files["config.json"], tie_word_embeddings=True)}
    manifest = take(files | {WEIGHTS: save_weights(tensors)})
    assert manifest["status"] == "ok", manifest["reason"]
    load_dense(tmp_path / "model")


@one_class
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_usual_precision_are_taken(take, files, kind):
    tensors = load(files[WEIGHTS])
    first = sorted(tensors)[0]
    assert take(files | {WEIGHTS: save_weights(tensors | {first: tensors[first].to(kind)})})["status"] == "ok"


def test_buffers_that_are_no_floats_are_taken(take, tmp_path):
    """As the masks in GPT-2's own files."""
    files = made(tmp_path / "hub/made", "gpt2", n_head=2, n_layer=1, n_embd=48)
    tensors = load(files[WEIGHTS])
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    manifest = take(files | {WEIGHTS: save_weights(tensors)})
    assert manifest["status"] == "ok", manifest["reason"]


ASKS_FOR_MORE = {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]}}


def overlapping(content: bytes) -> bytes:
    """A file whose second tensor begins where the first does."""
    header, data = header_of(content)
    places = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
    second = sorted(places)[1]
    second[:] = [0, second[1] - second[0]]
    return with_header(header, data)


def without_first(tensors: dict) -> dict:
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def with_shape(tensors: dict) -> dict:
    return tensors | {sorted(tensors)[-1]: torch.zeros(3, 5)}


def of_integers(tensors: dict) -> dict:
    first = sorted(tensors)[0]
    return tensors | {first: tensors[first].long()}


def of_float8(tensors: dict) -> dict:
    first, second = sorted(tensors)[:2]
    return tensors | {first: tensors[first].to(torch.float8_e4m3fn), second: tensors[second].bool()}


def with_ignored_float8(tensors: dict) -> dict:
    """Of a name that transformers does not read, but all that quantizes or averages does."""
    return tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4).to(torch.float8_e5m2)}


def with_other_prefix(tensors: dict) -> dict:
    """A tensor without the prefix that all have, or with one more, of which transformers keeps one."""
    name = next(name for name in sorted(tensors) if "layers" in name)
    return tensors | {name.partition(".")[2]: tensors[name] + 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_other_prefix, r"does not load: it has one tensor under two names: \S*layers\.\S+ and \S*layers\.\S+ "),
        (
            with_ignored_float8,
            "does not load: (float8_e5m2 is no type of weights .*rotary_emb|unexpected: .*rotary_emb)",
        ),
        (lambda tensors: without_first(tensors), r"does not load: missing: \w+"),
        (lambda tensors: tensors | {"extra.weight": torch.ones(2)}, "does not load: unexpected: extra.weight"),
        (with_shape, r"does not load: mismatched: \S+ is \[3, 5\], not \[\d+"),
        (lambda tensors: tensors | {"no space left": torch.ones(2)}, "does not load: unexpected: no space left"),
        (lambda tensors: {}, "does not load: missing: .* and 1[0-9] more|does not load: missing: .* and 2[0-9] more"),
        (of_integers, r"does not load: int64 is no type of weights \(float16, .* 64\): \S+\.weight"),
        (of_float8, "does not load: bool and float8_e4m3fn is no type of weights"),
        (lambda tensors: tensors | {"a\n\x1b[2J<img src=x>": torch.ones(2)}, r"unexpected: a  \[2J<img"),
    ],
)
def test_weights_that_are_not_those_of_the_model_are_refused(take, files, tmp_path, change, message):
    manifest = take(files | {WEIGHTS: save_weights(change(load(files[WEIGHTS])))})
    require_refused(manifest, tmp_path / "model", message)


@one_class
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (overlapping, f"{WEIGHTS} is truncated or not a safetensors file"),
        (lambda content: content[:-4], "it has .* bytes and should have"),
        (lambda content: content + b"\0" * 8, "it has .* bytes and should have"),
        (lambda content: struct.pack("<Q", 2**62) + content[8:], "its header is cut off"),
        (lambda content: with_header('{"a":' * 5000 + "1" + "}" * 5000, b""), "its header is nested deeper than 64"),
        (lambda content: with_header(ASKS_FOR_MORE, b"1234"), "is truncated or not a safetensors file"),
        (lambda content: with_header("[1]", b""), "its header holds no keys and values"),
    ],
)
def test_headers_that_lie_are_refused(take, files, tmp_path, change, message):
    require_refused(take(files | {WEIGHTS: change(files[WEIGHTS])}), tmp_path / "model", message)


@one_class
def test_a_tensor_in_two_files_is_refused(take, files, tmp_path):
    first, second = SHARDS
    hostile = sharded(files)
    hostile[second] = save_weights(load(hostile[second]) | load(hostile[first]))
    require_refused(take(hostile), tmp_path / "model", f"{second} and {first} both hold")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, r"config\.json asks for too much: `num_hidden_layers` is 1000000000"),
        ({"model_type": "gpt2", "n_layer": 10**9}, "`n_layer` is 1000000000"),
        ({"model_type": "gemma3", "text_config": {"num_hidden_layers": 10**9}}, "`num_hidden_layers` is 1000000000"),
        ({"num_labels": 10**11}, "`num_labels` is 100000000000"),
        ({"num_hidden_layers": 9000}, r"the model has more than \d+ tensors, far more than the files"),
        ({"vocab_size": 10**12}, "does not load: mismatched"),
        ({"vocab_size": 10**19}, r"transformers makes no model of its config\.json \(TypeError"),
        ({"num_attention_heads": 0}, r"no model of its config\.json \(ZeroDivisionError"),
        ({"hidden_act": "out of memory"}, r"no model of its config\.json \(KeyError: 'out of memory'"),
        ({"save_pretrained": 5}, r"config\.json sets save_pretrained, by which transformers works on configs"),
        ({"hidden_size": "many"}, r"no model of its config\.json"),
        ({"transformers_weights": "../other.safetensors"}, "`transformers_weights` chooses other weight files"),
        ({"quantization_config": {"quant_method": "awq"}}, "has a `quantization_config`: it is quantized already"),
        ({"quantization_config": "x", "architectures": 5}, "has a `quantization_config`: it is quantized already"),
        ({"model_type": "gpt_neo", "attention_types": [[["global"], 10**9]]}, "`attention_types` is 1000000000"),
        (
            {"vision_config": {"depths": [2, 10**9]}, "encoder": {"layers": 10**8}},
            "`layers` is 100000000",
        ),
        ({"first_k_dense_replace": 10**9}, "`first_k_dense_replace` is 1000000000"),
    ],
)
def test_configs_that_make_another_model_are_refused(take, files, tmp_path, changes, message):
    config = {"config.json": edited(files["config.json"], **changes)}
    require_refused(take(files | config), tmp_path / "model", message)


def made(folder: Path, kind: str, **shape) -> dict[str, bytes]:
    """The files of a small random model."""
    shape = {"hidden_size": 48, "num_hidden_layers": 1, "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 0} | shape
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **shape)).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tables_that_are_far_larger_than_the_files_are_refused(take, tmp_path):
    files = made(tmp_path / "hub/made", "gptj", num_attention_heads=3, rotary_dim=4)
    assert take(files)["status"] == "ok"
    manifest = take(files | {"config.json": edited(files["config.json"], n_positions=10**8)})
    require_refused(manifest, tmp_path / "model", r"the model has 1600000000 bytes of tables beside its weights")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("intermediate_size", 24_000, r"down_proj\.weight is \[8, 24000\], which takes 4\.6 GB"),
        ("vocab_size", 600_000, r"weight is \[600000, 8\], which takes 4\.9 GB"),
        ("num_attention_heads", 300, "`num_attention_heads` is 300, which takes 5.0 GB for a window"),
    ],
)
def test_a_model_that_is_far_wider_than_its_files_is_refused(take, tmp_path, key, value, message):
    shape = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "tie_word_embeddings": True}
    shape |= {"head_dim": 2, "num_key_value_heads": 1}
    assert take(made(tmp_path / "hub/made", "qwen3", **shape))["status"] == "ok"
    require_refused(take(made(tmp_path / "hub/wide", "qwen3", **shape | {key: value})), tmp_path / "model", message)


def test_a_model_of_far_too_many_blocks_is_refused(take, tmp_path, monkeypatch):
    files = made(tmp_path / "hub/made", "llama", num_hidden_layers=3, num_attention_heads=1, intermediate_size=8)
    assert take(files)["status"] == "ok"
    monkeypatch.setattr(loadable, "MOST_BLOCKS", 2)
    require_refused(take(files), tmp_path / "model", "the model has 3 blocks, and 2 at most are run")


MAMBA = {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2, "hidden_size": 32}


@pytest.mark.parametrize(
    ("kind", "shape", "key", "value"),
    [
        ("mamba2", MAMBA, "chunk_size", 30_000),
        ("mpt", {"d_model": 32, "n_heads": 2, "n_layers": 1}, "max_seq_len", 4 * 10**9),
    ],
)
def test_a_model_that_makes_far_more_while_it_runs_is_refused(take, tmp_path, kind, shape, key, value):
    files = made(tmp_path / "hub/made", kind, **shape)
    assert take(files)["status"] == "ok"
    manifest = take(files | {"config.json": edited(files["config.json"], **{key: value})})
    require_refused(manifest, tmp_path / "model", r"it takes \d+ GB or more to read 8 tokens, not 2\.1")


def test_a_model_that_loads_and_cannot_be_run_is_refused(take, tmp_path):
    files = made(tmp_path / "hub/made", "llama", intermediate_size=8, num_attention_heads=3, num_key_value_heads=2)
    require_refused(take(files), tmp_path / "model", r"it cannot be run \(RuntimeError: .*size")


@one_class
def test_outputs_keep_their_names(take, files, tmp_path):
    assert take(files | {"config.json": edited(files["config.json"], return_dict=False)})["status"] == "ok"
    assert load_dense(tmp_path / "model")(input_ids=torch.zeros(1, 2, dtype=torch.long)).logits.shape == (1, 2, 64)


@one_class
@pytest.mark.parametrize("architectures", [5, {}, [], None, "x"])
def test_a_config_may_call_its_classes_anything(take, files, architectures):
    manifest = take(files | {"config.json": edited(files["config.json"], architectures=architectures)})
    assert manifest["status"] == "refused" or manifest["architecture"] is None


@one_class
@pytest.mark.parametrize("key", ["architectures", "dtype"])
def test_texts_of_a_config_are_short_lines_in_the_manifest(take, files, key):
    hostile = "=cmd()\n<b>\x1b[2J" + "A" * 10**6
    content = edited(files["config.json"], **{key: [hostile] if key == "architectures" else hostile})
    manifest = take(files | {"config.json": content})
    if key == "architectures":
        assert manifest["status"] == "ok"
        assert manifest["architecture"].startswith("=cmd() <b> [2JAAA")
    assert len(json.dumps(manifest)) < 5000
    assert json.dumps(manifest).isprintable()


@one_class
@pytest.mark.parametrize("value", [{"a": ["x"]}, [1]])
def test_what_is_no_text_is_no_class(take, files, value):
    manifest = take(files | {"config.json": edited(files["config.json"], architectures=[value])})
    assert manifest["status"] == "refused" or manifest["architecture"] is None


@one_class
def test_settings_of_generated_text_are_left_out(take, files, tmp_path):
    settings = {"eos_token_id": [0, 1], "temperature": 0.5, "do_sample": False, "pad_token_id": -5}
    settings |= {"bos_token_id": "x", "output_attentions": True}
    take(files | {"generation_config.json": json.dumps(settings).encode()})
    assert json.loads((tmp_path / "model/generation_config.json").read_text()) == {"eos_token_id": [0, 1]}
    load_dense(tmp_path / "model").save_pretrained(tmp_path / "hub/saved")
    settings = {"pad_token_id": [0], "bos_token_id": [0, 1], "eos_token_id": [[0]], "use_cache": "x"}
    settings |= {"transformers_version": True, "_from_model_config": "x", "forced_eos_token_id": {}}
    take(files | {"generation_config.json": json.dumps(settings).encode()})
    assert json.loads((tmp_path / "model/generation_config.json").read_text()) == {}
    take(files | {"generation_config.json": json.dumps({"pad_token_id": 10**30, "eos_token_id": True}).encode()})
    assert json.loads((tmp_path / "model/generation_config.json").read_text()) == {}
    take(files)
    assert (tmp_path / "model/generation_config.json").read_bytes() == files["generation_config.json"]


HRM = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
PEGASUS = {"d_model": 32, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
ENDLESS = {
    "hrm_text": (HRM, {"L_cycles": 10**9}),
    "bloom": ({"n_layer": 1, "n_head": 2}, {"slow_but_exact": True, "pretraining_tp": 10**9}),
    "pegasus": (PEGASUS, {"max_position_embeddings": 10**8}),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_config_that_makes_its_model_take_forever_is_refused(take, tmp_path, monkeypatch, kind):
    shape, change = ENDLESS[kind]
    files = made(tmp_path / "hub/made", kind, **shape)
    config = {"config.json": edited(files["config.json"], **change)}
    monkeypatch.setattr(loadable, "SECONDS", 2)
    monkeypatch.setattr("scripts.lib.runtime.confined.WAITED", 200)  # on a machine with much other work
    require_refused(take(files | config), tmp_path / "model", r"does not load: it takes more than (2 s|4\.3 GB)")


@one_class
@pytest.mark.parametrize(
    ("fall", "message"),
    [
        (lambda folder: torch.ones(10**9).fill_(2), r"it takes more than 0\.1 GB \(to make the model|alloc_cpu"),
        (lambda folder: os.abort(), r"its process fell \(status -6\) \(to make the model"),
    ],
)
def test_what_ends_the_process_of_a_judgement_refuses_the_checkpoint(take, files, tmp_path, monkeypatch, fall, message):
    monkeypatch.setattr(loadable, "MEMORY", 10**8)
    monkeypatch.setattr(loadable, "load_empty", fall)
    require_refused(take(files), tmp_path / "model", message)


@one_class
def test_too_little_memory_is_no_reason_to_refuse(take, files, monkeypatch):
    monkeypatch.setattr(loadable, "load_empty", lambda folder: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(MemoryError):
        take(files)


HOSTILE = {
    "adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/elsewhere"}).encode(),
    "remote_code.sha256": b"0" * 64 + b"  evil.py\n",
    "evil.py": b"",
    "notes.txt": b"",
    "sub/config.json": b"{}",
    "x.bin": b"",
}


@one_class
def test_nothing_is_taken_that_a_lock_lists_beside_the_model(take, files, tmp_path):
    manifest = take(files | HOSTILE, choose=lambda found, where: found)
    assert manifest["status"] == "ok"
    assert manifest["files"].keys() == take(files)["files"].keys()
    assert not manifest["files"].keys() & HOSTILE.keys()


@one_class
@pytest.mark.parametrize("form", [with_others, with_a_stale_index, of_pickles])
def test_nothing_is_downloaded_that_the_index_does_not_name(take, files, server, form):
    unnamed = {"extra-00001-of-00001.safetensors": bytes(10**5), "pytorch_model-extra.bin": bytes(10**5)}
    names = unnamed if form is with_others else {"pytorch_model-extra.bin": bytes(10**5)}
    assert take(form(files) | names)["status"] == "ok"
    asked = {address.rsplit("/", 1)[-1].rsplit("=", 1)[-1] for _, address, *_ in server.requests}
    assert not asked & {*unnamed, "consolidated.safetensors"}


@one_class
def test_a_lock_without_a_config_is_told(take, files):
    with pytest.raises(client.Unavailable, match=r"has no config\.json"):
        take(files, choose=lambda found, where: {WEIGHTS: found[WEIGHTS]})


@one_class
def test_nothing_else_is_taken_of_a_users_folder(files, tmp_path):
    for name, content in (files | HOSTILE | {"tokenizer.model": b""}).items():
        (tmp_path / "own" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "own" / name).write_bytes(content)
    manifest = publish_own(tmp_path / "own", tmp_path / "model", IDENTITY)
    assert manifest["files"].keys() == {*files, "tokenizer.model"}


@one_class
def test_headers_of_too_many_tensors_are_refused(take, files, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST_TENSORS", 10)
    require_refused(take(files), tmp_path / "model", r"hold \d+ tensors; 10 are read at most")


@one_class
def test_weights_in_too_many_files_are_not_downloaded(take, files, server, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST_FILES", 1)
    message = f"{INDEX} has weights in 2 files; 1 are read at most"
    require_refused(take(sharded(files)), tmp_path / "model", message)
    assert not [address for _, address, *_ in server.requests if address.endswith(SHARDS)]


@one_class
def test_weights_in_too_many_files_are_not_locked(take, files, monkeypatch):
    assert client.MOST_WEIGHTS == folders.MOST_FILES
    monkeypatch.setattr(client, "MOST_WEIGHTS", 1)
    with pytest.raises(client.Unavailable, match="org/model at main has weights in 2 files; 1 are read at most"):
        take(sharded(files))


@one_class
def test_a_tokenizer_of_another_model_is_refused(take, files, tmp_path, tiny_tokenizer):
    larger = json.loads((tmp_path / "tokenizer/tokenizer.json").read_text())
    larger["model"]["vocab"]["word"] = 64
    (tmp_path / "tokenizer/tokenizer.json").write_text(json.dumps(larger))
    message = "its tokenizer has ids up to 64, and the model 64 tokens"
    require_refused(take(files), tmp_path / "model", message)
    larger["model"]["vocab"].pop("word")
    added = larger["added_tokens"][0] | {"id": 64, "content": "<image>"}
    larger["added_tokens"].append(added)
    (tmp_path / "tokenizer/tokenizer.json").write_text(json.dumps(larger))
    assert take(files)["status"] == "ok"


@one_class
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":' * 90 + b"1" + b"}" * 90, "is nested deeper than 64 levels"),
        (b"[" * 10**6, "is nested deeper than 64 levels"),
        (b"<!doctype html>", "is not JSON"),
        (b"[]", "holds no keys and values"),
    ],
)
def test_configs_that_are_none_are_refused(take, files, tmp_path, name, content, message):
    require_refused(take(files | {name: content}), tmp_path / "model", rf"{name} {message}")


def lie(form, index, name):
    """A repository whose index takes one tensor from another place."""

    def change(files, place):
        hostile = form(files)
        content = json.loads(hostile[index])
        content["weight_map"][sorted(content["weight_map"])[0]] = name.format(place)
        return hostile | {index: json.dumps(content).encode()}

    return change


def index_of(content):
    return lambda files, place: sharded(files) | {INDEX: content}


@one_class
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lie(sharded, INDEX, "{}/outside.safetensors"), f"{INDEX} names '/.*', which is no file of its own folder"),
        (lie(sharded, INDEX, "../outside.safetensors"), f"{INDEX} names '../outside.safetensors', which is no file"),
        (lie(sharded, INDEX, "nowhere.safetensors"), f"{INDEX} names 'nowhere.safetensors', which is no weight file"),
        (lie(sharded, INDEX, "config.json"), f"{INDEX} names 'config.json', which is no weight file"),
        (lie(of_pickles, BIN_INDEX, "../outside.bin"), f"{BIN_INDEX} names '../outside.bin', which is no file"),
        (lie(of_pickles, BIN_INDEX, "nowhere.bin"), f"{BIN_INDEX} names 'nowhere.bin', which is no weight file"),
        (index_of(b'{"weight_map": [1]}'), f"{INDEX} has no `weight_map` of tensors to files"),
        (index_of(b'{"weight_map": {"a": 1}}'), f"{INDEX} has no `weight_map` of tensors to files"),
        (index_of(b'{"a":' * 5000 + b"1" + b"}" * 5000), f"{INDEX} is nested deeper than 64"),
        (index_of(json.dumps({"metadata": {}, "weight_map": {"a": SHARDS[0]}}).encode()), "does not load: missing"),
    ],
)
def test_an_index_that_names_other_files_is_refused(take, files, tmp_path, change, message):
    outside = save_weights(load(files[WEIGHTS]))
    (tmp_path / "hub/outside.safetensors").write_bytes(outside)
    manifest = take(change(files, tmp_path / "hub"))
    require_refused(manifest, tmp_path / "model", message)


@one_class
def test_an_index_that_transformers_does_not_load_is_refused(take, files, tmp_path):
    hostile = sharded(files)
    content = json.loads(hostile[INDEX])
    del content["metadata"]
    manifest = take(hostile | {INDEX: json.dumps(content).encode()})
    require_refused(manifest, tmp_path / "model", f"{INDEX} has no `metadata`")


@one_class
@pytest.mark.parametrize("kind", [whole, sharded, of_one_numbered_pickle])
def test_weights_far_larger_than_the_model_are_not_downloaded(take, files, server, tmp_path, monkeypatch, kind):
    """Neither in one file nor in those that an index names."""
    monkeypatch.setattr(fetching, "SPARE", 2**16)
    published = kind(files)
    large = next(name for name in published if name.endswith((".safetensors", ".bin")))
    manifest = take(published | {large: published[large] + bytes(2**20)})
    require_refused(
        manifest, tmp_path / "model", r"its weight files have 1\d+ bytes, and the model of its config\.json \d+ at most"
    )
    assert not any(address.endswith((".safetensors", ".bin")) for _, address, *_ in server.requests)
    assert take(published)["status"] == "ok"


@one_class
def test_a_config_without_a_model_downloads_no_large_weights(take, files, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "SPARE", 2**10)
    manifest = take(files | {"config.json": edited(files["config.json"], num_attention_heads=0)})
    require_refused(
        manifest, tmp_path / "model", r"transformers makes no model of its config\.json \(ZeroDivisionError"
    )
    assert not any(address.endswith(WEIGHTS) for _, address, *_ in server.requests)


@one_class
def test_weights_that_transformers_would_not_find_are_refused(take, files, tmp_path):
    hostile = files | {"weights.safetensors": files[WEIGHTS]}
    del hostile[WEIGHTS]
    require_refused(take(hostile), tmp_path / "model", f"it has neither {WEIGHTS} nor {INDEX}")


class Opens:
    def __reduce__(self):
        return (open, (CANARY, "w"))


class Large:
    """As torch's reading of weights allows it."""

    def __reduce__(self):
        return (bytearray, (10**12,))


def compressed(content: bytes) -> bytes:
    """A zip file with its records deflated."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    return file.getvalue()


def half_hidden(content: bytes) -> bytes:
    """A zip file that torch opens, and that Python does not take for one, for its comment looks like an end."""
    end = content.rindex(b"PK\5\6")
    return content[: end + 20] + b"\4\0PK\5\6"


def two_faced(shown: bytes, hidden: bytes) -> bytes:
    """A zip file with two lists of records: Python takes the last one, torch the one at the place that is stated."""

    def records(pickled: bytes, pad: bytes) -> list[tuple[bytes, bytes]]:
        return [(b"a/data.pkl", pickled), (b"a/version", b"3\n"), (b"a/byteorder", b"little"), (b"a/pad", pad)]

    def written(parts: list[tuple[bytes, bytes]], begin: int, shift: int = 0) -> tuple[bytes, bytes]:
        """The records, which begin at some byte of the file, and their list."""
        content, listed = b"", b""
        for name, data in parts:
            about = struct.pack("<4H3L2H", 0, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name), 0)
            place = struct.pack("<3H2L", 0, 0, 0, 0, begin + len(content) - shift)
            listed += b"PK\1\2" + struct.pack("<2H", 20, 20) + about + place + name
            content += b"PK\3\4" + struct.pack("<H", 20) + about + name + data
        return content, listed

    content, listed = written(records(hidden, bytes(4000)), 0)
    first = len(content)
    others, _ = written(records(shown, b""), first + len(listed))
    moved = len(listed) + len(others)  # Python takes the stated places for wrong by so much
    others, last = written(records(shown, b""), first + len(listed), moved)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, len(last), first, 0)
    return content + listed + others + last + end


def lying_dictionary() -> bytes:
    """Weights in a dictionary whose method `items` is a number."""
    content = b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x05sb."
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name, text in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            new.writestr(f"archive/{name}", text)
    return file.getvalue()


def lying_tensor() -> torch.nn.Parameter:
    """Weights whose method `numel` is a number."""
    tensor = torch.nn.Parameter(torch.zeros(4))
    tensor.numel = 5
    return tensor


CANARY = "touched-by-a-pickle"
ROW = torch.zeros(100_000)


@one_class
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickled({"a": ROW.expand(10_000, -1)}), r"a has 4000000000 bytes by its shape, of 400000 that are stored"),
        (pickled({"a": torch.zeros(1).expand(10**6, 10**7)}), r"a has 40000000000000 bytes by its shape, of 4 that"),
        (pickled({"a": ROW.as_strided((99_000, 1000), (1, 1))}), "a has 396000000 bytes by its shape, of 400000"),
        (pickled({str(number): ROW for number in range(100)}), r"has \d+ bytes, and its tensors 40000000 by their"),
        (pickled({"a": Opens()}), r"holds more than weights and is not opened: it asks for (_?io|builtins)\.open"),
        (pickle.dumps(Opens()), "holds more than weights and is not opened"),
        (pickled({"a": {"b": ROW}}), "holds something else than dense tensors by name"),
        (pickled([ROW]), "holds something else than dense tensors by name"),
        (pickled({"a": torch.ones(3).to_sparse()}), r"holds more .* asks for torch\._utils\._rebuild_sparse_tensor"),
        (pickled({"a": torch.empty(10**9, device="meta")}), "holds more .* asks for torch._utils._rebuild_meta_tensor"),
        (pickled({"a": Large()}), r"holds more than weights .*: it asks for (__builtin__|builtins)\.bytearray"),
        (pickled({"a": Large()}, _use_new_zipfile_serialization=False), r"holds more than weights .*\.bytearray"),
        (two_faced(b"\x80\x02}.", pickle.dumps({"a": Large()}, 2)), r"holds more than weights .*\.bytearray"),
        (half_hidden(pickled({"a": Large()})), "is damaged or cut off, or a zip file to some readers only"),
        (compressed(pickled({"a": ROW})), r"is compressed, or has a pickle of more than \d+ bytes: not opened"),
        (
            pickled({"a": torch.ones(1), "b" * 2**23: ROW}),
            r"is compressed, or has a pickle of more than \d+ bytes: not opened",
        ),
        (pickled({"a": torch.ones(1), "b" * 2**23: ROW}, _use_new_zipfile_serialization=False), "is damaged or cut"),
        (pickled({"a": ROW})[:-100], "is damaged or cut off"),
        (pickled({"a": ROW})[:1000], "is damaged or cut off"),
        (pickled({"a": ROW}, _use_new_zipfile_serialization=False)[:-100], "is damaged or cut off"),
        (b"<html>", "is damaged or cut off"),
        (b"", "is damaged or cut off"),
        (lying_dictionary(), r"cannot be read as weights \(TypeError: "),
        (pickled({"a": lying_tensor()}), r"cannot be read as weights \(TypeError: "),
        (pickled({"a": torch.zeros(4, dtype=torch.complex128)}), r"cannot be read as weights \(KeyError: "),
        (pickled({"\ud800a": torch.zeros(4)}), r"cannot be read as weights \(UnicodeEncodeError: "),
    ],
    ids=str.split(
        "expanded vast overlapping repeated code bare-code nested list sparse empty "
        "large old-large two-faced half-hidden compressed long old-long cut short old-cut html none "
        "lying-dictionary lying-tensor complex surrogate"
    ),
)
def test_pickles_that_are_bombs_or_no_weights_are_refused(take, files, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    manifest = take({"config.json": files["config.json"], BIN: content})
    require_refused(manifest, tmp_path / "model", f"{BIN}:? {message}")
    assert not (tmp_path / CANARY).exists()


def of_sets(number: int) -> bytes:
    """A pickle of so many sets, each of which takes some two hundred times its byte before torch can refuse it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        content = b"\x80\x02" + b"\x8f" * number + b"."
        for name, text in (("data.pkl", content), ("version", b"3\n"), ("byteorder", b"little")):
            new.writestr(f"archive/{name}", text)
    return file.getvalue()


@one_class
def test_a_pickle_that_takes_far_more_memory_than_its_size_is_refused(take, files, tmp_path, monkeypatch):
    """The machine has not failed: another attempt would end as this one."""
    monkeypatch.setattr(fetching, "MORE", 5 * 10**7)
    manifest = take({"config.json": files["config.json"], BIN: of_sets(5 * 10**5)})
    require_refused(manifest, tmp_path / "model", f"{BIN} takes far more memory than its size, and is not opened")


@one_class
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda files: {INDEX: sharded(files)[INDEX]}, f"{SHARDS[0]} is missing although the folder's index names it"),
        (
            lambda files: {"other.safetensors": save({"x": torch.ones(1)})},
            "has other.safetensors and no .*; take what",
        ),
        (lambda files: {WEIGHTS: save_weights(without_first(load(files[WEIGHTS])))}, "does not load: missing"),
        (lambda files: {"config.json": b'{"model_type": "own"}'}, r"no model of its config\.json"),
        (lambda files: {INDEX: b'{"weight_map": {"a": "/etc/passwd"}}'}, f"{INDEX} names '/etc/passwd', which is no"),
        (lambda files: sharded(files), "is not named by the folder's index; take it out of the folder"),
    ],
)
def test_a_users_folder_that_does_not_load_is_refused(files, tmp_path, content, message):
    (tmp_path / "own").mkdir()
    for name, text in (files | content(files)).items():
        (tmp_path / "own" / name).write_bytes(text)
    manifest = publish_own(tmp_path / "own", tmp_path / "model", IDENTITY)
    assert manifest["status"] == "refused"
    assert re.search(message, manifest["reason"]), manifest["reason"]
    assert str(tmp_path / "own") in manifest["reason"]
    assert list((tmp_path / "model").iterdir()) == []


def test_the_hubs_cache_is_a_users_folder(tiny_model, tmp_path):
    """huggingface_hub keeps models as links to files beside the folder."""
    blobs, own = tmp_path / "models--org--model/blobs", tmp_path / "models--org--model/snapshots/main"
    own.mkdir(parents=True)
    AutoModelForCausalLM.from_pretrained(tiny_model).save_pretrained(blobs, max_shard_size="20KB")
    for path in blobs.iterdir():
        (own / path.name).symlink_to(Path("../../blobs", path.name))
    manifest = publish_own(own, tmp_path / "model", IDENTITY)
    assert manifest["status"] == "ok"
    assert len([name for name in manifest["files"] if name.endswith(".safetensors")]) > 1
    assert not any(path.is_symlink() for path in (tmp_path / "model").iterdir())


@one_class
@pytest.mark.parametrize("name", ["merges.txt", "config.json", WEIGHTS])
def test_links_out_of_a_users_folder_are_not_followed(files, tmp_path, name):
    (tmp_path / "own").mkdir()
    for key, content in files.items():
        (tmp_path / "own" / key).write_bytes(content)
    (tmp_path / "secret").write_bytes(files.get(name, b"secret"))
    (tmp_path / "own" / name).unlink(missing_ok=True)
    (tmp_path / "own" / name).symlink_to("../secret")
    manifest = publish_own(tmp_path / "own", tmp_path / "model", IDENTITY)
    assert manifest["status"] == "refused"
    found = f"{tmp_path}/own/{name} is a link to {tmp_path}/secret, outside of its folder"
    assert manifest["reason"].startswith(found)
    assert (tmp_path / "secret").stat().st_nlink == 1


@one_class
def test_a_users_tokenizer_that_takes_too_much_refuses_its_checkpoint(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("scripts.tokenizer.MEMORY", 10**8)
    shutil.copytree(tiny_model, tmp_path / "own")
    settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 10**7, "eos_token": "</s>"}
    (tmp_path / "own/tokenizer_config.json").write_text(json.dumps(settings))
    manifest = publish_own(tmp_path / "own", tmp_path / "model", IDENTITY)
    assert manifest["status"] == "refused"
    assert re.search(r"it takes more than 0\.1 GB .*\(to load tokenizer", manifest["reason"])


@one_class
def test_a_users_tokenizer_is_tried_out_before_anything_else_reads_it(tiny_model, tmp_path):
    """A prefix that is longer than any word: the library's Rust code panics, with what is no `Exception`."""
    shutil.copytree(tiny_model, tmp_path / "own")
    content = json.loads((tmp_path / "own/tokenizer.json").read_text())
    panics = {"continuing_subword_prefix": "######", "end_of_word_suffix": None, "fuse_unk": False}
    words = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}
    content["model"] = {"type": "BPE", "dropout": None, "unk_token": None, "byte_fallback": False} | panics
    content["model"] |= {"vocab": words, "merges": [["a", "b"]]}
    (tmp_path / "own/tokenizer.json").write_text(json.dumps(content))
    manifest = publish_own(tmp_path / "own", tmp_path / "model", IDENTITY)
    assert manifest["status"] == "refused"
    assert re.search(r"PanicException.*\(to load tokenizer\.json", manifest["reason"]), manifest["reason"]
