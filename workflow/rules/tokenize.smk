# tokenize: a tokenizer, trained or taken from a model, and each split of a corpus as one array of token ids.


rule tokenizer:
    input:
        corpus=tokenizer_corpus,
        text=tokenizer_text,
    output:
        tokenizer=directory(f"{PATHS.tokenizer()}/tokenizer"),
        manifest=f"{PATHS.tokenizer()}/manifest.json",
    log:
        f"{PATHS.logs('tokenizer')}/{{tokenizer}}.log",
    benchmark:
        f"{PATHS.benchmarks('tokenizer')}/{{tokenizer}}.tsv"
    wildcard_constraints:
        tokenizer=any_of([*PLAN.tokenizers, *PLAN.by_source("local")]),
    conda:
        ENV
    resources:
        **asks("tokenizer"),
    params:
        tokenizer="{tokenizer}",
        definition=tokenizer_definition,
        code=fingerprint("tokenizer"),
    script:
        "../../scripts/tokenizer.py"


rule tokenize:
    input:
        corpus=f"{PATHS.corpus()}/manifest.json",
        text=ancient(f"{PATHS.corpus()}/{{split}}.parquet"),
        manifest=f"{PATHS.tokenizer()}/manifest.json",
        tokenizer=ancient(f"{PATHS.tokenizer()}/tokenizer"),
    output:
        tokens=f"{TOKENS}.npy",
        documents=f"{TOKENS}-documents.parquet",
        manifest=f"{TOKENS}.json",
    log:
        f"{PATHS.logs('tokenize')}/{{tokenizer}}/{{corpus}}-{{split}}.log",
    benchmark:
        f"{PATHS.benchmarks('tokenize')}/{{tokenizer}}/{{corpus}}-{{split}}.tsv"
    conda:
        ENV
    resources:
        **asks("tokenize"),
    params:
        tokenizer="{tokenizer}",
        corpus="{corpus}",
        split="{split}",
        code=fingerprint("tokenize"),
    script:
        "../../scripts/tokenize.py"
