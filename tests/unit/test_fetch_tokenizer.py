"""fetch_tokenizer: a tokenizer from a local hub, at the commit that is locked."""

from transformers import AutoTokenizer

from scripts.fetch_tokenizer import fetch_tokenizer
from scripts.lib.hub import client
from tests.hub import connect
from tests.hub.server import Hub


def test_the_locked_tokenizer_is_taken(tmp_path, monkeypatch, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "source")
    with Hub(tmp_path / "hub") as server:
        connect(server, monkeypatch)
        commit = server.add("org/tokenizer", "main", tmp_path / "source")
        locked = client.resolve("org/tokenizer", "main", client.tokenizer_files)
        server.move("org/tokenizer", "main", {"tokenizer.json": b"{}"})
        (tmp_path / "state").mkdir()  # left by a killed job that began another commit
        (tmp_path / "state/added_tokens.json").write_text('{"<other>": 64}')
        places = (str(tmp_path / "tokenizer"), str(tmp_path / "manifest.json"))
        manifest = fetch_tokenizer("org/tokenizer", locked, tmp_path / "state", "org--tokenizer", *places)
    assert manifest["definition"]["commit"] == commit
    assert manifest["vocabulary"] == 64
    assert not (tmp_path / "state").exists()
    assert AutoTokenizer.from_pretrained(tmp_path / "tokenizer").get_vocab() == tiny_tokenizer.get_vocab()
