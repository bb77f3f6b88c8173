"""A few rows in the columns that each data set of suite paper12 really has, as the hub's conversions to parquet."""

import io
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

from scripts.lib.data import suites

LETTERS = "ABCDE"


def text(number: int) -> str:
    return f"What is the sum of {number} and {number + 1}?"


def choices(number: int, count: int) -> dict:
    return {"label": list(LETTERS[:count]), "text": [f"choice {number + index}" for index in range(count)]}


def arc(n: int) -> dict:
    return {"id": f"Mercury_{n}", "question": text(n), "choices": choices(n, 4), "answerKey": LETTERS[n % 4]}


def openbookqa(n: int) -> dict:
    return {"id": f"7-{n}", "question_stem": text(n), "choices": choices(n, 4), "answerKey": LETTERS[n % 4]}


def piqa(n: int) -> dict:
    return {"goal": text(n), "sol1": f"add {n}", "sol2": f"take {n} away", "label": n % 2}


def hellaswag(n: int) -> dict:
    endings = [f"[step] ends after {n + index} minutes." for index in range(4)]
    begin = {"ind": n, "activity_label": "Counting", "ctx_a": f"A man counts to {n}.", "ctx_b": "he", "ctx": f"{n}"}
    return begin | {"endings": endings, "source_id": f"a~{n}", "split": "val", "split_type": "x", "label": str(n % 4)}


def winogrande(n: int) -> dict:
    return {
        "sentence": f"Ann met Eve {n} times, as _ was ill.",
        "option1": "Ann",
        "option2": "Eve",
        "answer": "12"[n % 2],
    }


def mathqa(n: int) -> dict:
    options = f"a ) {n} , b ) {n + 1} , c ) {n + 2} , d ) {n + 3} , e ) none of these"
    formulas = {"annotated_formula": "add(1,2)", "linear_formula": "add(n0,n1)|", "category": "general"}
    return {"Problem": text(n), "Rationale": "add", "options": options, "correct": LETTERS[n % 5].lower()} | formulas


def pubmedqa(n: int) -> dict:
    ask = {
        "QUESTION": f"Does drug {n} help?",
        "CONTEXTS": [f"We gave {n}.", "It helped."],
        "LABELS": ["AIM", "RESULTS"],
    }
    more = {"MESHES": ["Humans"], "YEAR": "2011", "reasoning_required_pred": "yes", "reasoning_free_pred": "yes"}
    return ask | more | {"final_decision": ("yes", "no", "maybe")[n % 3], "LONG_ANSWER": f"Drug {n} helps."}


def sciq(n: int) -> dict:
    wrong = {f"distractor{index}": f"wrong {n + index}" for index in (1, 2, 3)}
    return {"question": text(n), **wrong, "correct_answer": str(2 * n + 1), "support": f" Sums of {n} are odd."}


def siqa(n: int) -> dict:
    answers = {f"answer{letter}": f"{letter} number {n}" for letter in "ABC"}
    return {"context": f"Kim called {n} times.", "question": "What will Kim do next?", **answers, "label": "123"[n % 3]}


def commonsense_qa(n: int) -> dict:
    ask = {"id": f"{n:032x}", "question": text(n), "question_concept": "sum"}
    return ask | {"choices": choices(n, 5), "answerKey": LETTERS[n % 5]}


def mmlu(n: int) -> dict:
    return {"question": text(n), "subject": "sums", "choices": choices(n, 4)["text"], "answer": n % 4}


ROWS = {
    "allenai--ai2_arc": arc,
    "allenai--openbookqa": openbookqa,
    "baber--piqa": piqa,
    "Rowan--hellaswag": hellaswag,
    "allenai--winogrande": winogrande,
    "regisss--math_qa": mathqa,
    "bigbio--pubmed_qa": pubmedqa,
    "allenai--sciq": sciq,
    "lighteval--siqa": siqa,
    "tau--commonsense_qa": commonsense_qa,
    "cais--mmlu": mmlu,
}
CLASSES = {"baber--piqa": ("label", ["0", "1"]), "cais--mmlu": ("answer", list("ABCD"))}


def parquet(dataset: str, rows: int, first: int = 0) -> bytes:
    """A parquet file of a data set, with the features that `datasets` writes into its schema."""
    made = Dataset.from_list([ROWS[dataset](number) for number in range(first, first + rows)])
    if dataset in CLASSES:
        column, names = CLASSES[dataset]
        made = made.cast(Features({**made.features, column: ClassLabel(names=names)}))
    if dataset == "Rowan--hellaswag":
        made = made.cast(Features({**made.features, "ind": Value("int32")}))
    file = io.BytesIO()
    made.to_parquet(file)
    return file.getvalue()


def write(root: Path, tasks: dict[str, suites.Task], rows: int = 6) -> None:
    """Write the data of tasks below a resources folder; splits of examples hold other rows than what is scored."""
    for path in suites.document_files({name: task for name, task in tasks.items() if not task.own}, ""):
        _, dataset, _, split, _ = Path(path).parts
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        first = 0 if split in ("test", "validation") else 100
        (root / path).write_bytes(parquet(dataset, rows, first))
