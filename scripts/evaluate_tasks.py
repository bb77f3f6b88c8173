"""Benchmark scores of one cell, by lm-eval's own Python API, kept per document."""

import collections
import functools
import json
import logging
import math
import os
import random
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from scripts.lib.data import suites
from scripts.lib.runtime import manifests
from scripts.lib.runtime.confined import TimeOnCore
from scripts.lib.runtime.shortages import Refused, is_device_full, kind_and_message, refusing

METRICS = {
    "acc": "accuracy",
    "acc_norm": "accuracy_norm",
    "acc_bytes": "accuracy_bytes",
    "exact_match": "exact_match",
    "bits_per_byte": "bits_per_byte",
}  # the harness's metrics that are averages over documents, by our names; others stay in its own results
COLUMNS = {"task": pl.String, "metric": pl.String, "document": pl.Int32, "value": pl.Float64, "weight": pl.Float64}
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
SEED = 1234  # the harness's default: chooses the examples of few-shot tasks
GENERATING = "generate_until"
REQUESTS = ("loglikelihood", "loglikelihood_rolling", GENERATING)  # all that the harness asks of a model
OF_DOCUMENTS = ("build_all_requests", "process_results")  # what the harness asks of a task, a document at a time
SECONDS = 600  # of a core, for what the harness makes of a task's data, among it patterns; in config/README.md
MOST_ASKED = 10**6  # letters of a request, of which tokenizers take some hundred bytes each; in config/README.md
MOST_LETTERS = 3 * 10**8  # of a benchmark's requests, whose tokens are all kept: 40 bytes each; in config/README.md
TEMPLATES = 1000  # of a suite's tasks, whose code is kept: mmlu has three in each of 57
SOFTMAX = "float32"  # log-probabilities, whatever the weights' dtype


def evaluate_tasks(
    manifest: Path | str,
    model_folder: Path | str,
    suite_file: Path | str,
    data_root: Path | str,
    cell: dict,
    settings: dict,
    results: Path | str,
    samples: Path | str,
    datasets: Path | str | None = None,
) -> None:
    """Score one cell on one suite and write the harness's results and the scores of every document.

    Same inputs, same bytes. A cell that was refused, or whose model fails on the documents or has scores that are not
    finite, or whose tasks cannot be made of a hub's data, gives a refused result, no rows.

    Args:
        manifest: manifest of the checkpoint (method `none`) or of the quantized model.
        model_folder: its model; not read when the manifest says refused.
        suite_file: config/tasks/suite-<name>.yaml, its task files beside it.
        data_root: the resources folder, to which the tasks' data files are relative.
        cell: {"trajectory", "checkpoint", "method", "suite"}.
        settings: {"dtype": torch dtype of the weights, "threads": CPU threads, "device": "cpu", "cuda" or "auto"}.
        results: JSON to write: status, reason, cell, settings, and the results dictionary of the harness.
        samples: parquet to write: task, metric, document, value, weight; score = sum(value * weight) / sum(weight).
        datasets: what gather_datasets wrote, where the suite reads data of a hub; their commits are written down.

    Raises:
        ValueError: suite, task file or documents are wrong; the message names file and field.
    """
    suite, made = suites.load_suite(suite_file), manifests.read(manifest)
    harness, rows, reason = {}, [], made["reason"] if made["status"] == "refused" else None
    if reason is None:
        os.environ |= OFFLINE
        from scripts.lib.runtime.devices import pick_device

        settings = settings | {"device": pick_device(settings["device"])}
        try:
            harness, rows = score(Path(model_folder), suite, Path(suite_file).parent, Path(data_root), **settings)
        except Refused as error:
            reason = str(error)
            logging.getLogger("trajquant").warning(f"refused: {reason}")
    description = {"status": "ok" if reason is None else "refused", "reason": reason, **cell}
    description["shots"] = {entry["task"]: entry["num_fewshot"] for entry in suite["tasks"]}
    description |= {"limit": suite["limit"], "batch_size": suite["batch_size"], **settings}
    files = manifests.read(datasets)["files"] if datasets else []
    description["datasets"] = {made["repo"]: made["commit"] for made in files}
    manifests.write(results, {**description, "packages": manifests.versions(), **harness})
    _write_samples(samples, rows, description | {"reason": reason or ""})


def score(
    model_folder: Path, suite: dict, tasks_folder: Path, data_root: Path, dtype: str, threads: int, device: str = "cpu"
) -> tuple[dict, list[tuple]]:
    """Run the harness on one model.

    `lm_eval.evaluate` is what `simple_evaluate` calls in the end; called directly, it leaves out the description of the
    machine (a second a cell), dates and git hashes, and a request to the model hub.

    Returns:
        the results dictionary of `lm_eval.evaluate`, without samples and with the task files as its `configs` (its own
        holds absolute paths and code), and rows (task, metric, document, value, weight). Groups are scored as their
        tasks there; in the rows they are one task.

    Raises:
        Refused: the model fails on the documents, or a log-likelihood is NaN or infinite; the message names task and
            document then. Or a task of the harness fails on what a hub gave as its data; it names both.
        ValueError: a task file or its documents are wrong, or the model's own code is not as it was pinned.
    """
    known = suites.load_tasks(suite, tasks_folder)
    _check_documents(known, data_root)
    os.environ |= OFFLINE
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM

    from scripts.lib.models.loading import load_dense, load_tokenizer, own_code
    from scripts.lib.models.prefixes import sharing_questions
    from scripts.lib.models.streaming import streaming, too_large

    own_code.is_trusted(model_folder)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="trajquant-tasks-") as cache:
        tasks = build_tasks(known, data_root, cache)
        with refusing("transformers"):
            generates = any(task.OUTPUT_TYPE == GENERATING for task in tasks.values())
            blocks = None if generates else too_large(model_folder, dtype, device)
            model = blocks.model if blocks else load_dense(model_folder, dtype).to(device)
            tokenizer = load_tokenizer(model_folder)
            lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=suite["batch_size"], softmax_dtype=SOFTMAX)
        lm.tok_encode = functools.lru_cache(maxsize=2)(lm.tok_encode)  # a question once for all of its answers
        if not blocks:
            lm._loglikelihood_tokens = sharing_questions(lm, lm._loglikelihood_tokens)
        for asked in REQUESTS:
            answer = streaming(lm, blocks, getattr(lm, asked)) if blocks else getattr(lm, asked)
            setattr(lm, asked, refusing("transformers")(halving_batches(lm, answer)))
        random.seed(SEED)
        torch.manual_seed(SEED)
        of_hub = {name: task for name, task in known.items() if not task.own}
        with torch.inference_mode(), refusing_data(of_hub):
            output = lm_eval.evaluate(lm, {"tasks": tasks}, limit=suite["limit"], bootstrap_iters=0, log_samples=True)
    samples = output.pop("samples")
    output["configs"] = {name: task.fields for name, task in known.items()}
    return output, _rows(known, samples)


def halving_batches(lm, answer: Callable) -> Callable:
    """One of the harness's methods that answer requests, tried with half the batch where a GPU is too small for it.

    Nearly all of that shows at once, for the harness begins with the longest requests. The batch stays small then.
    """

    def answer_all(*args, **kwargs):
        while True:
            try:
                return answer(*args, **kwargs)
            except Exception as error:
                if not is_device_full(error) or lm.batch_size_per_gpu == 1:
                    raise
            lm.batch_size_per_gpu //= 2
            logging.getLogger(__name__).warning("too many requests at once: now %d", lm.batch_size_per_gpu)
            import torch

            torch.cuda.empty_cache()

    return answer_all


def build_tasks(known: dict[str, suites.Task], data_root: Path, cache: str | Path) -> dict:
    """The harness's task objects, their data files below `data_root`, cached where no other job looks.

    Raises:
        ValueError: a field of an own task names a column that the documents do not have.
        Refused: a task of the harness cannot be made of its data, or not in time, or asks too much; so does what its
            object does later. Or, later, the scores of a task have no average.
    """
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import env

    # The harness makes code of a template once more for each document and each example before it.
    env.from_string = functools.lru_cache(maxsize=TEMPLATES)(functools.partial(type(env).from_string, env))
    manager, tasks, letters = TaskManager(include_defaults=False), {}, collections.Counter()
    for name, task in known.items():
        refused = (lambda call: call) if task.own else refusing_in_time({name: task})
        made = tasks[name] = refused(build_task)(manager, name, task, data_root, cache)
        if not task.own:
            made.construct_requests = bounded(made.construct_requests, letters, task.score)
            for asked in OF_DOCUMENTS:
                setattr(made, asked, refused(getattr(made, asked)))
        averages = {metric: refused(finite(name)(average)) for metric, average in made.aggregation().items()}
        made.aggregation = functools.partial(dict, averages)
    return tasks


def bounded(construct: Callable, letters: collections.Counter, benchmark: str) -> Callable:
    """A task's method that makes the requests of a document, which has none that is too long, nor too many all told.

    Args:
        letters: of the requests so far, by benchmark; the tasks of a group count together.

    Raises:
        ValueError: it would have one.
    """

    def construct_bounded(*args, **kwargs):
        made = construct(*args, **kwargs)
        asked = [
            [text for text in request.args if isinstance(text, str)]
            for request in (made if isinstance(made, list) else [made])
        ]
        if (longest := max((sum(map(len, texts)) for texts in asked), default=0)) > MOST_ASKED:
            raise ValueError(f"a request has {longest} letters, and {MOST_ASKED} at most are taken")
        letters[benchmark] += letters_kept(asked)
        if letters[benchmark] > MOST_LETTERS:
            raise ValueError(f"the requests of {benchmark} have more than {MOST_LETTERS} letters, all told")
        return made

    return construct_bounded


def letters_kept(asked: list[list[str]]) -> int:
    """Letters of a document's requests whose tokens the harness keeps, a question and an answer each.

    It keeps a question once for all of its answers, but for blanks at its end, which come to each answer.
    """
    questions = {id(texts[0]): len(texts[0]) for texts in asked if texts}
    blanks = sum(len(texts[0]) - len(texts[0].rstrip()) for texts in asked if texts)
    return sum(questions.values()) + blanks + sum(len(text) for texts in asked for text in texts[1:])


@contextmanager
def finite(task: str) -> Iterator[None]:
    """Turn into a refused cell that a task's scores have no average: a perplexity has none of a loss of thousands."""
    try:
        yield
    except ArithmeticError as error:
        raise Refused(f"task {task}: its scores have no average: {kind_and_message(error)}") from error


def refusing_in_time(tasks: dict[str, suites.Task]) -> Callable[[Callable], Callable]:
    """A decorator of what reads a hub's data, as `refusing_data`; all that it decorates has `SECONDS` together.

    That it takes more memory than there is, is the data's fault too.
    """
    time = TimeOnCore(SECONDS)
    return lambda call: refusing_data(tasks, memory=True)(time.spent()(call))


@contextmanager
def refusing_data(tasks: dict[str, suites.Task], memory: bool = False) -> Iterator[None]:
    """Turn what is raised on a hub's data into a refused cell that names tasks and their files; nothing without tasks.

    What own tasks raise among them is turned into that, too, where nothing tells whose it is.

    Args:
        memory: whether a lack of memory is the data's fault, not the machine's.
    """
    if not tasks:
        yield
        return
    files, several = ", ".join(suites.document_files(tasks, "")), len(tasks) > 1
    with refusing(f"{'one of the tasks' if several else 'task'} {', '.join(tasks)}", f"its data ({files})"):
        try:
            yield
        except MemoryError as error:  # of Python's parser, on a text that is nested too deeply, is no lack of memory
            if traceback.extract_tb(error.__traceback__)[-1].filename.endswith("ast.py"):
                raise ValueError("a text in it is nested too deeply") from error
            if not memory:
                raise
            raise ValueError("what is made of it takes more memory than there is") from error


def build_task(manager, name: str, task: suites.Task, data_root: Path, cache: str | Path):
    """The harness's object of one task."""
    from lm_eval.tasks._yaml_loader import load_yaml

    data = {field: task.fields.get(field) for field in ("dataset_path", "dataset_name")}
    kwargs = {**task.fields["dataset_kwargs"], "data_files": task.data(data_root), "cache_dir": str(cache)}
    spec = {**load_yaml(task.path), **data, "dataset_kwargs": kwargs, "num_fewshot": task.shots}
    made = manager.load([spec])["tasks"][name]
    made.set_fewshot_seed(SEED)
    for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        column = task.fields.get(field)
        if isinstance(column, str) and column.isidentifier() and column not in made.features:
            columns = ", ".join(made.features)
            raise ValueError(f"task {name}: field {field!r} names column {column!r}; the documents have: {columns}")
    return made


def _check_documents(known: dict[str, suites.Task], data_root: Path) -> None:
    """Refuse a missing or empty data file before the libraries are imported."""
    for name, task in known.items():
        for path in suites.document_files({name: task}, data_root):
            if not Path(path).is_file() or Path(path).stat().st_size == 0:
                raise ValueError(
                    f"task {name}: its data file {path} is missing or empty; "
                    + ("see dataset_kwargs.data_files" if task.own else "run with -R fetch_dataset")
                )


def _check_finite(task: str, items: list[dict]) -> None:
    """Look at the raw log-likelihoods: an accuracy made from NaN is a number like any other."""
    for item in items:
        for response in item["filtered_resps"]:
            value = response[0] if isinstance(response, tuple | list) else response
            if not math.isfinite(value):
                raise Refused(f"task {task}: the log-likelihood of document {item['doc_id']} is {value}")


def _rows(known: dict[str, suites.Task], samples: dict[str, list[dict]]) -> list[tuple]:
    """(task, metric, document, value, weight) of every document, in the order of tasks, metrics, documents.

    The documents of a group's tasks, one task after the other, are numbered as those of one task: all weigh the same,
    so their mean is the harness's score of the group, which weighs tasks by their documents.
    Bits per byte = -log-likelihood / (ln 2 * bytes), weighted by bytes, as in lm_eval.api.metrics.bits_per_byte.

    Raises:
        ValueError: a metric of an own task's file was not computed by the harness for this kind of task.
        Refused: a log-likelihood is NaN or infinite, or a hub's data give no scores.
    """
    rows, before = [], collections.Counter()  # documents of the same score so far
    for name, task in known.items():
        with refusing_data({} if task.own else {name: task}):
            _check_finite(name, samples[name])
            rows += _rows_of_task(name, task, samples[name], before[task.score])
        before[task.score] += len(samples[name])
    return rows


def _rows_of_task(task: str, known: suites.Task, items: list[dict], before: int) -> list[tuple]:
    """Rows of one task, its documents numbered after so many that went before."""
    rows, fields = [], known.fields
    for name in [entry["metric"] for entry in fields["metric_list"]]:
        if name not in items[0]["metrics"]:
            made, kind = ", ".join(items[0]["metrics"]), fields["output_type"]
            raise ValueError(f"task {task}: the harness computes no metric {name!r} for a {kind} task, only: {made}")
        if name in METRICS:
            numbered = [(before + item["doc_id"], item[name]) for item in items]
            rows += [(known.score, METRICS[name], number, *_value(name, value)) for number, value in numbered]
    return rows


def _value(metric: str, value) -> tuple[float, float]:
    """Value and weight of one document."""
    if metric == "bits_per_byte":
        log_likelihood, count = value
        return -log_likelihood / (math.log(2) * count), float(count)
    return float(value), 1.0


def _write_samples(path: Path | str, rows: list[tuple], description: dict) -> None:
    """Write the rows with the description as parquet metadata: texts as they are, everything else as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()}
    temporary = path.with_name(f".{path.name}.tmp")
    pl.DataFrame(rows, schema=COLUMNS, orient="row").write_parquet(temporary, metadata=metadata)
    os.replace(temporary, path)


if __name__ == "__main__":
    from scripts.lib.runtime.logs import open_log

    job = snakemake
    cell = {key: job.wildcards[key] for key in ("trajectory", "checkpoint", "method", "suite")}
    open_log(job.log[0], "evaluate_tasks " + "/".join(cell.values()))
    evaluate_tasks(
        manifest=job.input.manifest,
        model_folder=job.input.weights,
        suite_file=job.input.suite,
        data_root=job.params.data_root,
        cell=cell,
        settings={name: job.params[name] for name in ("dtype", "threads", "device")},
        results=job.output.results,
        samples=job.output.samples,
        datasets=job.input.datasets or None,
    )
