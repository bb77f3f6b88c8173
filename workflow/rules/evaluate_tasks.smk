# evaluate_tasks: lm-eval on one cell; the local tasks' documents are made from a corpus's validation split.


localrules:
    task_documents,


rule task_documents:
    input:
        corpus=f"{PATHS.corpus()}/manifest.json",
        text=ancient(f"{PATHS.corpus()}/validation.parquet"),
    output:
        choice=f"{PATHS.task_documents()}/choice.jsonl",
        cloze=f"{PATHS.task_documents()}/cloze.jsonl",
        rolling=f"{PATHS.task_documents()}/rolling.jsonl",
        manifest=f"{PATHS.task_documents()}/manifest.json",
    log:
        f"{PATHS.logs('task_documents')}/{{corpus}}.log",
    conda:
        ENV
    params:
        corpus="{corpus}",
        documents=config["evaluate_tasks"]["documents"],
        seed=config["evaluate_tasks"]["seed"],
        code=fingerprint("task_documents"),
    script:
        "../../scripts/task_documents.py"


rule evaluate_tasks:
    input:
        manifest=cell_file("manifest.json"),
        weights=cell_file("model"),
        suite="config/tasks/suite-{suite}.yaml",
        tasks=suite_tasks,
        documents=suite_documents,
        datasets=suite_datasets,
    output:
        results=f"{EVALUATED}/tasks-{{suite}}.json",
        samples=PATHS.tasks(),
    log:
        f"{PATHS.logs('evaluate_tasks')}/{{trajectory}}/{{checkpoint}}/{{method}}/{{suite}}.log",
    benchmark:
        f"{PATHS.benchmarks('evaluate_tasks')}/{{trajectory}}/{{checkpoint}}/{{method}}/{{suite}}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **asks("evaluate_tasks", gpus=1),
    params:
        **config["compute"],
        data_root=RESOURCES,
        code=fingerprint("evaluate_tasks"),
    script:
        "../../scripts/evaluate_tasks.py"
