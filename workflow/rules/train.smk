# train: controlled runs, a chain of links from restart point to restart point.
# What triggers is a link's lineage file, not its folder (see `once_made` in common.smk).


localrules:
    lineage,


rule lineage:
    input:
        tokens=training_tokens("manifest"),
        parent=parent_lineage,
    output:
        f"{LINK}.json",
    log:
        f"{PATHS.logs('lineage')}/{{trajectory}}/{{link}}.log",
    conda:
        ENV
    params:
        run=run_of,
        start=link_start,
        threads=THREADS,
        processes=config["train"]["processes"],
        code=fingerprint("lineage", "train"),
    script:
        "../../scripts/lineage.py"


rule train:
    input:
        lineage=f"{LINK}.json",
        parent=parent_link,
        tokens=training_tokens("tokens"),
        tokenizer=tokenizer_of,
    output:
        directory(LINK),
    log:
        f"{PATHS.logs('train')}/{{trajectory}}/{{link}}.log",
    benchmark:
        f"{PATHS.benchmarks('train')}/{{trajectory}}/{{link}}.tsv"
    priority: 10
    conda:
        ENV
    threads: THREADS * config["train"]["processes"]
    resources:
        **asks("train", gpus=config["train"]["processes"]),
    params:
        **MACHINE,
        run=run_of,
        link=link_span,
        save_every=config["train"]["save_every"],
        processes=config["train"]["processes"],
        state=f"{PATHS.state()}/{{trajectory}}/{{link}}",
    script:
        "../../scripts/train.py"
