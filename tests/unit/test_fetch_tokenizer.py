"""fetch_tokenizer: a tokenizer from a local hub, at the commit that is locked."""

import json

import pytest
from transformers import AutoTokenizer

from scripts import tokenizer as stage
from scripts.fetch_tokenizer import fetch_tokenizer
from scripts.lib.hub import client, locks
from scripts.tokenize import encode_batch
from tests.hub import connect
from tests.hub.server import Hub

END = "<|endoftext|>"
ENTRY = {"bytes": 3, "blob": "0" * 40}


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


@pytest.fixture
def take(tmp_path, monkeypatch, tiny_tokenizer):
    """A function that fetches the tokenizer, some of its files changed, and gives its folder."""
    tiny_tokenizer.save_pretrained(tmp_path / "source")

    def run(files, locked=None):
        files = {path.name: path.read_bytes() for path in (tmp_path / "source").iterdir()} | files
        with Hub(tmp_path / "hub") as server:
            connect(server, monkeypatch)
            server.add("org/tokenizer", "main", {name: content for name, content in files.items() if content})
            places = (str(tmp_path / "tokenizer"), str(tmp_path / "manifest.json"))
            fetch_tokenizer("org/tokenizer", locked, tmp_path / "state", "own", *places)
        return tmp_path / "tokenizer"

    return run


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "is nested deeper than 64 levels"),
        (b"<html>", "is not JSON"),
        (b"[]", "holds no keys and values"),
    ],
)
def test_json_that_is_none_is_named(take, tmp_path, name, content, message):
    with pytest.raises(ValueError, match=rf"tokenizer own: org/tokenizer at \w+: .*{name} {message}.*`tokenizer_repo`"):
        take({name: content})
    assert not (tmp_path / "tokenizer").exists()


def edit_lock(tmp_path, monkeypatch, files):
    """A lock of the tokenizer with other files, in the place of locks."""
    monkeypatch.chdir(tmp_path)
    locked = {"repo": "org/tokenizer", "commit": "0" * 40, "files": files}
    locks.write("config/trajectories", "run", {"revisions": {}, "tokenizer": locked})
    return locked


@pytest.mark.parametrize("files", [{}, {"../x.json": ENTRY}, {"evil.py": ENTRY, "config.json": ENTRY}])
def test_a_lock_without_a_tokenizer_is_named(take, tmp_path, monkeypatch, files):
    where = (
        r"org/tokenizer at 0{12} \(locked in config/trajectories/locks/run\.json: if that was edited, delete its entry"
    )
    with pytest.raises(client.Unavailable, match=f"^{where} there and run `make resolve`\\) has no tokenizer; "):
        take({}, edit_lock(tmp_path, monkeypatch, files))
    assert {path.name for path in tmp_path.iterdir()} == {"source", "hub", "config"}


def test_a_lock_of_another_file_is_named(take, tmp_path, monkeypatch):
    locked = edit_lock(tmp_path, monkeypatch, {"tokenizer.json": ENTRY, "../x.json": ENTRY})
    told = (
        r"^org/tokenizer at 0{12}: tokenizer\.json, locked in config/trajectories/locks/run\.json: the hub has no such"
    )
    with pytest.raises(client.Unavailable, match=told):
        take({}, locked)
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize("key", ["vocab", "vocab_file", "tokenizer_file"])
def test_settings_open_no_file_outside(take, tmp_path, key):
    """transformers takes these as addresses of files anywhere, before those of the repository."""
    words = {word: number for number, word in enumerate([END, "a", "b", "ab"])}
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps({**words, "secret": 4}))
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": END, "unk_token": END, key: str(outside)}
    files = {"tokenizer_config.json": json.dumps(settings).encode(), "vocab.json": json.dumps(words).encode()}
    folder = take(files | {"merges.txt": b"#version: 0.2\na b\n", "tokenizer.json": None})
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == words


@pytest.mark.parametrize("key", ["vocab_file", "tokenizer_file"])
def test_special_tokens_open_no_file_outside(take, tmp_path, key, tiny_tokenizer):
    """transformers takes every key of this file for a setting of the tokenizer, after its own."""
    outside = json.loads((tmp_path / "source/tokenizer.json").read_text())
    outside["model"]["vocab"]["secret"] = 64
    (tmp_path / "outside.json").write_text(json.dumps(outside))
    settings = {"eos_token": END, key: str(tmp_path / "outside.json")}
    folder = take({"special_tokens_map.json": json.dumps(settings).encode()})
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tiny_tokenizer.get_vocab()


def test_settings_choose_no_other_file(take, tmp_path, tiny_tokenizer):
    settings = json.loads((tmp_path / "source/tokenizer_config.json").read_text())
    settings |= {"fast_tokenizer_files": ["../source/tokenizer.4.0.0.json"]}
    (tmp_path / "source/tokenizer.4.0.0.json").write_text("{}")
    folder = take({"tokenizer_config.json": json.dumps(settings).encode()})
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tiny_tokenizer.get_vocab()


def backend(tmp_path, **parts):
    """tokenizer.json with other parts."""
    return json.dumps(json.loads((tmp_path / "source/tokenizer.json").read_text()) | parts).encode()


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


DOUBLED = {"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 22}
BEFORE = {"type": "Prepend", "prepend": "w1 " * 5000}
BACKTRACKS = replace({"Regex": "(x+x+)+y"}, "")
OTHER = {"type": "BertProcessing", "sep": ["w1", 70_000], "cls": ["w1", 1]}
PADDED = {"strategy": {"Fixed": 2**26}, "direction": "Right", "pad_to_multiple_of": None}
PADDED |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "w1"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": DOUBLED}, r"it takes more than 0\.1 GB"),
        ({"normalizer": BEFORE}, r"it makes \d+ tokens of a text of \d+ bytes"),
        ({"post_processor": OTHER}, "it makes id 70000 of a text, and the largest of its vocabulary is 63"),
        ({"normalizer": BACKTRACKS}, "PanicException|it takes more than 1 s"),
    ],
)
def test_a_tokenizer_that_grows_is_refused(take, tmp_path, monkeypatch, parts, message):
    monkeypatch.setattr(stage, "MEMORY", 10**8)
    monkeypatch.setattr(stage, "SECONDS", 1)
    told = (
        rf"^tokenizer own: org/tokenizer at \w+: .*({message}).*tokenizer\.json.*name another one in `tokenizer_repo`$"
    )
    with pytest.raises(ValueError, match=told):
        take({"tokenizer.json": backend(tmp_path, **parts)})
    assert not (tmp_path / "tokenizer").exists()


WORD = "u" * 200_000
RARE_LETTER = replace({"String": "ꙮ"}, "w1 " * 1000)
RARE_ENTRY = replace({"String": "ꙮ"}, f" {'z' * 4000} ")


@pytest.mark.parametrize(
    ("parts", "model", "message"),
    [
        ({}, {"vocab": {END: 0, "w1": 1, WORD: 2}, "unk_token": WORD}, "its unk_token has 200000 bytes, and 64 at "),
        ({}, {"vocab": {END: 0, "w1": 1, WORD: 2}}, "its vocabulary has an entry of 200000 bytes, "),
        ({"normalizer": RARE_LETTER}, {}, "it makes 10[0-9]{2} tokens of a text of 48 bytes"),
        (
            {"normalizer": RARE_ENTRY},
            {"vocab": {END: 0, "w1": 1, "z" * 4000: 2}},
            "it makes tokens of 40.. bytes ",
        ),
        (
            {"pre_tokenizer": None},
            {},
            r"it makes 1 tokens of 4\d+ bytes of text, and one in 32 at least is needed",
        ),
    ],
)
def test_a_tokenizer_that_multiplies_a_rare_letter_or_a_word_is_refused(take, tmp_path, parts, model, message):
    """What it gives for a letter that it does not know, or for one that few texts have."""
    known = json.loads((tmp_path / "source/tokenizer.json").read_text())["model"]
    with pytest.raises(ValueError, match=rf"^tokenizer own: org/tokenizer at \w+: {message}.*`tokenizer_repo`$"):
        take({"tokenizer.json": backend(tmp_path, **parts, model=known | model)})
    assert not (tmp_path / "tokenizer").exists()


@pytest.mark.parametrize("name", ["continuing_subword_prefix", "end_of_word_suffix"])
def test_a_long_part_of_every_word_is_refused(take, tmp_path, name):
    model = {"type": "BPE", "vocab": {END: 0, "a": 1}, "merges": [], "unk_token": END, name: WORD}
    with pytest.raises(ValueError, match=f"its {name} has 200000 bytes, and 64 at most are taken"):
        take({"tokenizer.json": backend(tmp_path, model=model)})


def test_an_id_beyond_all_vocabularies_is_refused(take, tmp_path):
    """There are lists by ids: of 2^32 they take 34 GB."""
    model = json.loads(backend(tmp_path))["model"]
    model["vocab"]["w63"] = 2 * 10**7
    with pytest.raises(ValueError, match="it has the id 20000000, and 10000000 is the largest that is taken"):
        take({"tokenizer.json": backend(tmp_path, model=model)})


def test_padding_is_not_carried_out(take, tmp_path):
    folder = take({"tokenizer.json": backend(tmp_path, padding=PADDED)})
    assert stage.load(str(folder))("w5 w7").input_ids == [5, 7]
    assert encode_batch(stage.load(str(folder)), ["w5 w7", "w5"]) == [[5, 7], [5]]


def template(times, ids):
    """What TemplateProcessing puts before a text: a special token, as so many, so often."""
    parts = {"w1": {"id": "w1", "ids": [1] * ids, "tokens": ["w1"] * ids}}
    text, mark = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "w1", "type_id": 0}}
    made = {"type": "TemplateProcessing", "single": [mark] * times + [text], "special_tokens": parts}
    return {"post_processor": made | {"pair": [text, {"Sequence": {"id": "B", "type_id": 0}}]}}


def test_a_template_that_multiplies_is_refused(take, tmp_path):
    take({"tokenizer.json": backend(tmp_path, **template(1, 2))})
    with pytest.raises(ValueError, match=r"tokenizer own: org/tokenizer at .*: it makes 10000 tokens of a text of 0 b"):
        take({"tokenizer.json": backend(tmp_path, **template(100, 100))})


def own_folder(tmp_path, tokenizer, **files):
    """A user's folder with a tokenizer, some of its JSON files changed."""
    tokenizer.save_pretrained(tmp_path / "own")
    for name, content in files.items():
        (tmp_path / "own" / f"{name}.json").write_text(json.dumps(content))
    return {"source": "model", "path": str(tmp_path / "own")}


def written(tmp_path, definition):
    stage.tokenizer(definition, "mine", None, str(tmp_path / "taken"), str(tmp_path / "manifest.json"))
    return tmp_path / "taken"


def test_a_users_tokenizer_is_tried_out(tmp_path, monkeypatch, tiny_tokenizer):
    monkeypatch.setattr(stage, "MEMORY", 10**8)
    settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 10**7, "eos_token": "</s>"}
    definition = own_folder(tmp_path, tiny_tokenizer, tokenizer_config=settings)
    with pytest.raises(ValueError, match=r"^tokenizer mine: it takes more than 0\.1 GB .*tokenizer\.json"):
        written(tmp_path, definition)
    assert not (tmp_path / "taken").exists()


def test_a_users_tokenizer_opens_nothing_outside_and_stays_as_it_is(tmp_path, tiny_tokenizer):
    """Settings that name other files are left out of what is taken."""
    definition = own_folder(tmp_path, tiny_tokenizer)
    outside = json.loads((tmp_path / "own/tokenizer.json").read_text())
    outside["model"]["vocab"]["secret"] = 64
    (tmp_path / "outside.json").write_text(json.dumps(outside))
    settings = {"eos_token": END, "tokenizer_file": str(tmp_path / "outside.json")}
    (tmp_path / "own/special_tokens_map.json").write_text(json.dumps(settings))
    taken = AutoTokenizer.from_pretrained(written(tmp_path, definition))
    assert taken.get_vocab() == tiny_tokenizer.get_vocab()
    assert json.loads((tmp_path / "own/special_tokens_map.json").read_text()) == settings
    (tmp_path / "own/tokenizer.json").unlink()
    (tmp_path / "own/tokenizer.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(ValueError, match=r"^tokenizer mine: .*/own/tokenizer\.json is a link to .*outside\.json, outs"):
        written(tmp_path, definition)


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 10**8},
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 10**8},
        {"tokenizer_class": "PegasusTokenizer", "offset": 10**8},
    ],
)
def test_settings_take_no_time_and_memory(take, tmp_path, monkeypatch, settings):
    monkeypatch.setattr(stage, "MEMORY", 10**8)
    monkeypatch.setattr(stage, "SECONDS", 1)
    known = json.loads((tmp_path / "source/tokenizer_config.json").read_text())
    with pytest.raises(ValueError, match=r"tokenizer own: org/tokenizer at .*it takes more than .* `tokenizer_repo`$"):
        take({"tokenizer_config.json": json.dumps(known | settings).encode()})


@pytest.mark.parametrize(
    "settings",
    [
        {"_tokenizer": 5},  # is set, and not to be written as JSON
        {"backend_tokenizer": {"a": 1}},
        {"tokenizer_class": 5},
        {"eos_token": ["a"]},
        {"added_tokens_decoder": {"0": {"content": 5}}},
    ],
)
def test_settings_of_any_name_and_type_are_refused_in_one_line(take, tmp_path, settings):
    known = json.loads((tmp_path / "source/tokenizer_config.json").read_text())
    told = r"^tokenizer own: org/tokenizer at \w+: .* \(to load tokenizer\.json, tokenizer_config\.json, .*_repo`$"
    with pytest.raises(ValueError, match=told):
        take({"tokenizer_config.json": json.dumps(known | settings).encode()})
    assert not (tmp_path / "tokenizer").exists()


def test_a_users_settings_are_refused_in_one_line(tmp_path, tiny_tokenizer):
    definition = own_folder(tmp_path, tiny_tokenizer, tokenizer_config={"eos_token": END, "_tokenizer": 5})
    with pytest.raises(
        ValueError, match=r"^tokenizer mine: TypeError: .*\(to load tokenizer\.json, tokenizer_config\.j"
    ):
        written(tmp_path, definition)


@pytest.mark.parametrize("error", [TypeError("x"), MemoryError("x")])
def test_what_fails_after_the_trial_is_named_too(tmp_path, monkeypatch, tiny_tokenizer, error):
    """Unless the machine failed: such a job is tried again."""

    def fail(path):
        raise error

    monkeypatch.setattr(stage, "take", fail)
    failure, told = (ValueError, "^tokenizer mine: TypeError: x$") if type(error) is TypeError else (MemoryError, "^x$")
    with pytest.raises(failure, match=told):
        written(tmp_path, own_folder(tmp_path, tiny_tokenizer))
