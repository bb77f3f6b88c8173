"""scripts/tokenizer.py: training a byte-level BPE and taking a model's tokenizer."""

import polars as pl
import pytest
from transformers import AutoTokenizer, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast

from scripts import tokenizer as stage
from scripts.lib.runtime import manifests

DEFINITION = {"source": "train", "corpus": "tiny", "vocabulary": 300}
HARD = "  Naïve 漢字\t\r\n\nit's <|endoftext|> \x00 f(x)=1 🙂 "


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "train.parquet"
    texts = [f"Return the mean of column {number} and the number of its rows." for number in range(200)]
    pl.DataFrame({"text": texts}).write_parquet(path)
    return str(path)


def run(definition, text, folder):
    manifest = stage.tokenizer(definition, "tiny", text, str(folder / "tokenizer"), str(folder / "manifest.json"))
    return manifest, AutoTokenizer.from_pretrained(folder / "tokenizer")


def test_training_gives_a_lossless_tokenizer(text, tmp_path):
    manifest, made = run(DEFINITION, text, tmp_path)
    assert len(made) == made.vocab_size == manifest["vocabulary"] == 300
    assert made.eos_token == made.pad_token == "<|endoftext|>"
    assert manifest["eos"] == made.eos_token_id == made.pad_token_id
    assert made.decode(made(HARD).input_ids) == HARD
    assert len(made("Return the mean").input_ids) < 10
    assert manifest["files"] == manifests.describe_files(tmp_path / "tokenizer")
    assert manifests.read(tmp_path / "manifest.json") == manifest


def test_training_twice_gives_equal_bytes(text, tmp_path):
    first, _ = run(DEFINITION, text, tmp_path / "first")
    second, _ = run(DEFINITION, text, tmp_path / "second")
    assert first == second


@pytest.mark.parametrize("architecture", [LlamaConfig, GPTNeoXConfig])
def test_a_model_folder_keeps_the_ids(text, tmp_path, architecture):
    _, made = run(DEFINITION, text, tmp_path)
    architecture(vocab_size=300).save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model")
    manifest, taken = run({"source": "model", "path": str(tmp_path / "model")}, None, tmp_path / "taken")
    assert taken(HARD).input_ids == made(HARD).input_ids
    assert (manifest["vocabulary"], manifest["eos"]) == (300, made.eos_token_id)
    assert set(manifest["files"]) == {"tokenizer.json", "tokenizer_config.json"}


def test_too_little_text_for_the_vocabulary_is_an_error(text, tmp_path):
    with pytest.raises(ValueError, match=r"tiny: .*train\.parquet gives only \d+ entries, 5000 are asked for"):
        run(DEFINITION | {"vocabulary": 5000}, text, tmp_path)
    with pytest.raises(ValueError, match="vocabulary is 200, at least 257"):
        run(DEFINITION | {"vocabulary": 200}, text, tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_folders_without_a_usable_tokenizer_are_errors(text, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"tiny: path '.*missing' is not a folder"):
        run({"source": "model", "path": str(tmp_path / "missing")}, None, tmp_path)
    with pytest.raises(ValueError, match=r"tiny: no tokenizer can be loaded from .*empty"):
        run({"source": "model", "path": str(tmp_path / "empty")}, None, tmp_path)
    _, made = run(DEFINITION, text, tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=made.backend_tokenizer).save_pretrained(tmp_path / "endless")
    with pytest.raises(ValueError, match=r"endless has no EOS token"):
        run({"source": "model", "path": str(tmp_path / "endless")}, None, tmp_path)
    with pytest.raises(ValueError, match="source is 'guess', neither train nor model"):
        run({"source": "guess"}, None, tmp_path)
