"""Benchmark scores: a real run of lm-eval on a tiny random model."""

import ast
import json
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
import torch
import yaml

from scripts.evaluate_tasks import evaluate_tasks, halving_batches, letters_kept, refusing_data, refusing_in_time
from scripts.lib.data import harness, suites
from scripts.lib.runtime import manifests
from scripts.lib.runtime.shortages import Refused
from tests.unit import benchmark_rows
from tests.unit.test_task_documents import make, make_corpus

TASKS = Path("config/tasks")
CELL = {"trajectory": "toy", "checkpoint": "step-1", "method": "none", "suite": "toy"}
SETTINGS = {"dtype": "float32", "threads": 1, "device": "cpu"}
OURS = {"acc": "accuracy", "acc_norm": "accuracy_norm", "bits_per_byte": "bits_per_byte"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A resources folder with task documents, a suite, and a cell with a random 2-layer Llama."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("resources")
    folder = root / "tasks" / "docstrings"
    folder.mkdir(parents=True)
    texts = make_corpus(folder / "validation.parquet", documents=12)
    make(folder)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts.values(), vocab_size=300, special_tokens=["<eos>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<eos>").save_pretrained(root / "cell" / "model")
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=300, max_position_embeddings=512, eos_token_id=0, bos_token_id=0, **shape)
    LlamaForCausalLM(config).save_pretrained(root / "cell" / "model")
    manifests.write(root / "cell" / "manifest.json", {"kind": "checkpoint", "status": "ok"})
    (root / "suites").mkdir()
    for path in TASKS.glob("docstrings-*.yaml"):
        (root / "suites" / path.name).write_text(path.read_text())
    write_suite(root, "toy", ["docstrings-choice", "docstrings-cloze", "docstrings-rolling"])
    return root


def write_suite(root: Path, name: str, tasks: list[str], shots: int = 0) -> None:
    listed = [{"task": task, "num_fewshot": shots} for task in tasks]
    suite = {"tasks": listed, "batch_size": 3, "limit": 6}
    (root / "suites" / f"suite-{name}.yaml").write_text(yaml.safe_dump(suite))


def run(root: Path, out: Path, suite: str = "toy", manifest=None, model=None, datasets=None) -> dict:
    evaluate_tasks(
        manifest or root / "cell" / "manifest.json",
        model or root / "cell" / "model",
        root / "suites" / f"suite-{suite}.yaml",
        root,
        CELL,
        SETTINGS,
        out / "tasks.json",
        out / "tasks.parquet",
        datasets,
    )
    return json.loads((out / "tasks.json").read_text())


def test_rows_aggregate_to_the_scores_of_the_harness(root, tmp_path):
    results = run(root, tmp_path)
    rows = pl.read_parquet(tmp_path / "tasks.parquet")
    score = (pl.col("value") * pl.col("weight")).sum() / pl.col("weight").sum()
    scores = {(task, metric): value for task, metric, value in rows.group_by("task", "metric").agg(score).iter_rows()}
    harness = {
        (task, OURS[key.partition(",")[0]]): value
        for task, metrics in results["results"].items()
        for key, value in metrics.items()
        if key.partition(",")[0] in OURS
    }
    assert scores == pytest.approx(harness, rel=1e-12)
    assert len(scores) == 4
    assert rows.height == 4 * 6
    assert rows["document"].unique().sort().to_list() == list(range(6))
    assert rows.filter(metric="bits_per_byte")["weight"].min() > 50


def test_bits_per_byte_is_that_of_a_plain_forward_pass(root, tmp_path):
    from scripts.lib.models.loading import load_dense, load_tokenizer

    run(root, tmp_path)
    text = json.loads((root / "tasks" / "docstrings" / "rolling.jsonl").read_text().splitlines()[0])["text"]
    model, tokenizer = load_dense(root / "cell" / "model"), load_tokenizer(root / "cell" / "model")
    ids = [tokenizer.eos_token_id, *tokenizer.encode(text)]
    assert len(ids) < 512, "the text must fit in one window for this check"
    loss = torch.nn.functional.cross_entropy(
        model(torch.tensor([ids[:-1]])).logits[0], torch.tensor(ids[1:]), reduction="sum"
    )
    row = pl.read_parquet(tmp_path / "tasks.parquet").row(
        by_predicate=(pl.col("metric") == "bits_per_byte") & (pl.col("document") == 0), named=True
    )
    assert row["weight"] == len(text.encode())
    assert row["value"] == pytest.approx(
        loss.item() / torch.log(torch.tensor(2.0)).item() / len(text.encode()), rel=1e-5
    )


def test_a_question_is_encoded_once_for_all_of_its_answers(root, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    encode, encoded = HFLM.tok_encode, []
    monkeypatch.setattr(
        HFLM, "tok_encode", lambda lm, text, **kwargs: encoded.append(text) or encode(lm, text, **kwargs)
    )
    write_suite(root, "choice", ["docstrings-choice"])
    run(root, tmp_path, suite="choice")
    lines = (root / "tasks" / "docstrings" / "choice.jsonl").read_text().splitlines()[:6]
    assert len(encoded) == 6 * (1 + 4)
    assert {json.loads(line)["context"] for line in lines} <= set(encoded)


def test_two_runs_are_identical_and_tell_nothing_of_the_machine(root, tmp_path):
    outs = [tmp_path / "a", tmp_path / "b"]
    for out in outs:
        run(root, out)
    for name in ("tasks.json", "tasks.parquet"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()
    written = (outs[0] / "tasks.json").read_text()
    assert json.loads(written)["packages"]["lm_eval"]
    assert json.loads(written)["versions"]["docstrings-cloze"] == 1.0
    assert not any(word in written for word in (str(root), str(Path.cwd()), "/tmp/", "date", "git_hash"))
    metadata = pl.read_parquet_metadata(outs[0] / "tasks.parquet")
    assert metadata.items() >= {**CELL, "status": "ok", "dtype": "float32", "limit": "6", "batch_size": "3"}.items()


def test_examples_come_before_the_question(root, tmp_path):
    fields = yaml.safe_load((TASKS / "docstrings-cloze.yaml").read_text())
    fields |= {"task": "cloze-shots", "fewshot_split": "test", "fewshot_config": {"sampler": "first_n"}}
    (root / "suites" / "cloze-shots.yaml").write_text(yaml.safe_dump(fields))
    write_suite(root, "shots", ["cloze-shots"], shots=2)
    assert run(root, tmp_path, suite="shots")["n-shot"] == {"cloze-shots": 2}


def test_a_task_may_bring_code_of_its_own(root, tmp_path):
    fields = yaml.safe_dump({**yaml.safe_load((TASKS / "docstrings-cloze.yaml").read_text()), "task": "cloze-code"})
    lines = [line for line in fields.splitlines() if not line.startswith("doc_to_target")]
    text = "\n".join([*lines, "doc_to_target: !function code.target"])
    (root / "suites" / "cloze-code.yaml").write_text(text)
    (root / "suites" / "code.py").write_text("def target(doc):\n    return doc['target']\n")
    write_suite(root, "code", ["cloze-code"])
    write_suite(root, "plain", ["docstrings-cloze"])
    run(root, tmp_path / "code", suite="code")
    run(root, tmp_path / "plain", suite="plain")
    written = [pl.read_parquet(tmp_path / name / "tasks.parquet").drop("task") for name in ("code", "plain")]
    assert written[0].equals(written[1])


def test_a_group_of_the_harness_is_one_score_over_all_its_documents(root, tmp_path, monkeypatch):
    every = harness.members
    monkeypatch.setattr(harness, "members", lambda path: every(path)[:3])
    write_suite(root, "own", ["arc_easy", "mmlu"], shots=5)
    tasks = suites.load_tasks(suites.load_suite(root / "suites/suite-own.yaml"), root / "suites")
    assert list(tasks) == ["arc_easy", "mmlu_abstract_algebra", "mmlu_anatomy", "mmlu_astronomy"]
    benchmark_rows.write(root, tasks)
    short = tasks["mmlu_anatomy"].data(root)["test"][0]
    Path(short).write_bytes(benchmark_rows.parquet("cais--mmlu", rows=2))
    manifests.write(tmp_path / "own.json", {"files": [{"repo": "cais/mmlu", "commit": "c0ffee"}]})
    results = run(root, tmp_path, suite="own", datasets=tmp_path / "own.json")
    rows = pl.read_parquet(tmp_path / "tasks.parquet")
    assert rows["task"].unique(maintain_order=True).to_list() == ["arc_easy", "mmlu"]
    assert rows.filter(task="arc_easy")["metric"].unique(maintain_order=True).to_list() == ["accuracy", "accuracy_norm"]
    assert rows.filter(task="mmlu")["document"].to_list() == list(range(6 + 2 + 6))
    scores = {name: results["results"][name] for name in list(tasks)[1:]}
    weighed = sum(score["acc,none"] * score["sample_len"] for score in scores.values())
    assert rows.filter(task="mmlu")["value"].mean() == pytest.approx(weighed / (6 + 2 + 6), rel=1e-12)
    assert results["n-shot"] == dict.fromkeys(tasks, 5)
    assert results["shots"] == {"arc_easy": 5, "mmlu": 5}
    assert results["datasets"] == {"cais/mmlu": "c0ffee"}
    assert str(root) not in (tmp_path / "tasks.json").read_text()
    Path(short).unlink()
    with pytest.raises(ValueError, match=r"task mmlu_anatomy: its data file .* is missing or empty; run with -R fetch"):
        run(root, tmp_path, suite="own")


def test_a_template_is_made_code_once_for_all_documents(root, tmp_path, monkeypatch):
    from lm_eval.utils import env

    compile, compiled = type(env).compile, []
    monkeypatch.setattr(
        type(env), "compile", lambda env, text, **kwargs: compiled.append(text) or compile(env, text, **kwargs)
    )
    write_suite(root, "templates", ["arc_easy"], shots=5)
    tasks = suites.load_tasks(suites.load_suite(root / "suites/suite-templates.yaml"), root / "suites")
    benchmark_rows.write(root, tasks)
    manifests.write(tmp_path / "own.json", {"files": [{"repo": "allenai/ai2_arc", "commit": "c0ffee"}]})
    run(root, tmp_path, suite="templates", datasets=tmp_path / "own.json")
    assert "Question: {{question}}\nAnswer:" in compiled
    assert len(compiled) == len(set(compiled))


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda row: row | {"answerKey": "Z"}, "ValueError: 'Z' is not in list"),
        (lambda row: row | {"choices": {"label": ["A"], "text": ["a", "b"]}, "answerKey": "B"}, "ValueError: 'B' is"),
        (lambda row: row | {"choices": {"label": [], "text": []}}, "ValueError: 'A' is not in list"),
        (lambda row: without(row, "choices"), "UndefinedError: 'choices' is undefined"),
        (lambda row: without(row, "question"), ""),
    ],
)
def test_a_task_that_cannot_be_made_of_a_hubs_data_makes_a_refused_result(root, tmp_path, wrong, reason):
    write_suite(root, "hub", ["docstrings-choice", "arc_easy"])
    tasks = suites.load_tasks(suites.load_suite(root / "suites/suite-hub.yaml"), root / "suites")
    rows = [wrong(benchmark_rows.arc(number)) for number in range(6)]
    for path in suites.document_files({"arc_easy": tasks["arc_easy"]}, root):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_parquet(path)
    results = run(root, tmp_path, suite="hub")
    assert results["status"] == "refused"
    said = "task arc_easy fails on its data (datasets/allenai--ai2_arc/ARC-Easy/test/0000.parquet, "
    assert results["reason"].startswith(said)
    assert reason in results["reason"]
    assert pl.read_parquet(tmp_path / "tasks.parquet").is_empty()


@pytest.mark.parametrize(
    ("task", "rows"),
    [
        ("hellaswag", [benchmark_rows.hellaswag(0) | {"ctx_a": "[" * 900_000}]),  # its pattern goes to the end for each
        ("mathqa", [benchmark_rows.mathqa(0) | {"options": "a ) " * 200_000}]),  # as does this one, for each question
    ],
)
def test_a_text_that_makes_a_benchmarks_patterns_slow_makes_a_refused_result(root, tmp_path, monkeypatch, task, rows):
    monkeypatch.setattr("scripts.evaluate_tasks.SECONDS", 2)
    write_suite(root, "hub", [task])
    known = suites.load_tasks(suites.load_suite(root / "suites/suite-hub.yaml"), root / "suites")
    for path in suites.document_files(known, root):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows).write_parquet(path)
    before = time.process_time()
    results = run(root, tmp_path, suite="hub")
    assert time.process_time() - before < 30
    assert results["status"] == "refused"
    assert results["reason"].startswith(f"task {task} fails on its data (datasets/")
    assert "TooLongError: it takes more than 2 s of a core" in results["reason"]


def arc_of(root, question, rows=6):
    """A suite of ARC whose examples, and whose questions, have a text as their question."""
    write_suite(root, "hub", ["arc_easy"], shots=5)
    known = suites.load_tasks(suites.load_suite(root / "suites/suite-hub.yaml"), root / "suites")
    for path in suites.document_files(known, root):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        made = [benchmark_rows.arc(number) | {"question": f"{number} {question}"} for number in range(rows)]
        pl.DataFrame(made).write_parquet(path)


@pytest.mark.parametrize(
    ("question", "most", "reason"),
    [
        ("a" * 200, "MOST_ASKED", "ValueError: a request has 1"),
        ("a" * 20, "MOST_LETTERS", "ValueError: the requests of arc_easy have more than 1000 letters, all told"),
    ],
)
def test_texts_that_would_stand_in_too_many_prompts_make_a_refused_result(
    root, tmp_path, monkeypatch, question, most, reason
):
    monkeypatch.setattr(f"scripts.evaluate_tasks.{most}", 1000)
    arc_of(root, question)
    results = run(root, tmp_path, suite="hub")
    assert results["status"] == "refused"
    assert results["reason"].startswith("task arc_easy fails on its data (datasets/")
    assert reason in results["reason"]


def test_letters_are_counted_as_their_tokens_are_kept():
    question = "why?"
    assert letters_kept([[question, " a"], [question, " bc"]]) == 4 + 2 + 3
    assert letters_kept([["why?  ", "a"], ["who?  ", "b"]]) == 6 + 6 + 4 + 2
    assert letters_kept([["alone"], []]) == 5


def test_a_perplexity_without_value_makes_a_refused_result(root, tmp_path):
    """Here of an own task: the loss of a word is above 709 nats."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    fields = yaml.safe_load((TASKS / "docstrings-rolling.yaml").read_text()) | {"task": "perplexity"}
    fields["metric_list"] += [{"metric": "word_perplexity", "aggregation": "weighted_perplexity"}]
    (root / "suites" / "perplexity.yaml").write_text(yaml.safe_dump(fields))
    write_suite(root, "perplexity", ["perplexity"])
    model = AutoModelForCausalLM.from_pretrained(root / "cell" / "model")
    model.lm_head.weight.data *= 1e6
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(root / "cell" / "model").save_pretrained(tmp_path / "model")
    results = run(root, tmp_path, suite="perplexity", model=tmp_path / "model")
    assert results["status"] == "refused"
    assert results["reason"].startswith("task perplexity: its scores have no average: OverflowError")


PAIR = {"sentence1": "a b", "sentence2": "c", "label": 1, "idx": 0}


@pytest.mark.parametrize(
    ("task", "rows", "reason"),
    [
        ("mrpc", [PAIR, PAIR | {"label": 0}, PAIR | {"label": 2}], "ValueError: Target is multiclass"),
        ("mrpc", [], ""),
        ("piqa", [], ""),
    ],
)
def test_scores_that_a_hubs_data_do_not_give_make_a_refused_result(root, tmp_path, task, rows, reason):
    """What the harness does once all documents are answered."""
    write_suite(root, "hub", [task])
    known = suites.load_tasks(suites.load_suite(root / "suites/suite-hub.yaml"), root / "suites")
    columns = PAIR if task == "mrpc" else {"goal": "a", "sol1": "b", "sol2": "c", "label": 0}
    for path in suites.document_files(known, root):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows or [columns])[: len(rows)].write_parquet(path)
    results = run(root, tmp_path, suite="hub")
    assert results["status"] == "refused"
    assert results["reason"].startswith(f"task {task} fails on its data (datasets/")
    assert reason in results["reason"]
    assert pl.read_parquet(tmp_path / "tasks.parquet").is_empty()


def test_a_refused_cell_is_passed_on(root, tmp_path):
    manifests.write(tmp_path / "manifest.json", {"kind": "quantized", "status": "refused", "reason": "no such bits"})
    results = run(root, tmp_path, manifest=tmp_path / "manifest.json", model=tmp_path / "nowhere")
    rows = pl.read_parquet(tmp_path / "tasks.parquet")
    assert (results["status"], results["reason"]) == ("refused", "no such bits")
    assert rows.is_empty()
    assert rows.columns == ["task", "metric", "document", "value", "weight"]
    assert pl.read_parquet_metadata(tmp_path / "tasks.parquet")["reason"] == "no such bits"


def test_scores_that_are_not_finite_make_a_refused_result(root, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(root / "cell" / "model")
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(root / "cell" / "model").save_pretrained(tmp_path / "model")
    results = run(root, tmp_path, model=tmp_path / "model")
    assert results["status"] == "refused"
    assert "task docstrings-choice: the log-likelihood of document 0 is nan" in results["reason"]
    assert pl.read_parquet(tmp_path / "tasks.parquet").is_empty()


def test_a_model_that_fails_on_the_documents_makes_a_refused_result(root, tmp_path):
    """Here on a token that its tokenizer has, and that it has no row for."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(root / "cell" / "model")
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(root / "cell" / "model").save_pretrained(tmp_path / "model")
    results = run(root, tmp_path, model=tmp_path / "model")
    assert results["status"] == "refused"
    assert results["reason"] == "transformers fails on this model: IndexError: index out of range in self"
    assert pl.read_parquet(tmp_path / "tasks.parquet").is_empty()


def test_a_text_that_pythons_parser_gives_up_on_is_no_lack_of_memory():
    tasks = {"t": SimpleNamespace(data=lambda root: {"test": ["a.parquet"]})}
    with pytest.raises(Refused, match=r"a\.parquet.*nested too deeply"), refusing_data(tasks):
        ast.literal_eval("[" + "-" * 7000 + "1]")
    with pytest.raises(MemoryError), refusing_data(tasks):
        raise MemoryError
    with pytest.raises(Refused, match="takes more memory than there is"):
        refusing_in_time(tasks)(lambda: bytearray(2**62))()


def test_a_gpu_that_is_too_small_for_a_batch_gets_smaller_ones():
    sizes, model = [], SimpleNamespace(batch_size_per_gpu=16)

    def answer(requests):
        sizes.append(model.batch_size_per_gpu)
        if model.batch_size_per_gpu > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return requests

    fitting = 4
    assert halving_batches(model, answer)([1, 2]) == [1, 2]
    assert halving_batches(model, answer)([3]) == [3]
    assert sizes == [16, 8, 4, 4]
    fitting = 0
    with pytest.raises(torch.OutOfMemoryError):
        halving_batches(model, answer)([1])
    assert model.batch_size_per_gpu == 1


def test_too_little_memory_fails_the_job(root, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", fail)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run(root, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"doc_to_target": "targt"}, "task wrong: field 'doc_to_target' names column 'targt'; the documents have"),
        (
            {"dataset_kwargs": {"data_files": {"test": "tasks/none.jsonl"}}},
            "task wrong: its data file .* is missing or empty",
        ),
        ({"metric_list": [{"metric": "acc_norm"}]}, "task wrong: the harness computes no metric 'acc_norm'"),
    ],
)
def test_a_task_that_does_not_fit_its_documents_is_an_error(root, tmp_path, change, message):
    fields = yaml.safe_load((TASKS / "docstrings-cloze.yaml").read_text()) | {"task": "wrong"} | change
    (root / "suites" / "wrong.yaml").write_text(yaml.safe_dump(fields))
    write_suite(root, "wrong", ["wrong"])
    with pytest.raises(ValueError, match=message):
        run(root, tmp_path, suite="wrong")
