# tokenize: a tokenizer, trained or taken from a model, and each split of a corpus as one array of token ids.


rule tokenizer:
    input:
        corpus=tokenizer_corpus,
        text=tokenizer_text,
        code=closure("tokenizer"),
    output:
        tokenizer=directory(f"{RESOURCES}/tokenizers/{{tokenizer}}/tokenizer"),
        manifest=f"{RESOURCES}/tokenizers/{{tokenizer}}/manifest.json",
    log:
        f"{RESULTS}/logs/tokenizer/{{tokenizer}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tokenizer/{{tokenizer}}.tsv"
    conda:
        ENV
    params:
        tokenizer="{tokenizer}",
        definition=tokenizer_definition,
    script:
        "../../scripts/tokenizer.py"


rule tokenize:
    input:
        corpus=f"{RESOURCES}/corpora/{{corpus}}/manifest.json",
        text=ancient(f"{RESOURCES}/corpora/{{corpus}}/{{split}}.parquet"),
        manifest=f"{RESOURCES}/tokenizers/{{tokenizer}}/manifest.json",
        tokenizer=ancient(f"{RESOURCES}/tokenizers/{{tokenizer}}/tokenizer"),
        code=closure("tokenize"),
    output:
        tokens=f"{TOKENS}.npy",
        documents=f"{TOKENS}-documents.parquet",
        manifest=f"{TOKENS}.json",
    log:
        f"{RESULTS}/logs/tokenize/{{tokenizer}}/{{corpus}}-{{split}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tokenize/{{tokenizer}}/{{corpus}}-{{split}}.tsv"
    conda:
        ENV
    params:
        tokenizer="{tokenizer}",
        corpus="{corpus}",
        split="{split}",
    script:
        "../../scripts/tokenize.py"
