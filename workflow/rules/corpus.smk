# corpus: documents from packages, files or a hub; near-duplicates removed; split by a hash of the document.


localrules:
    corpus,


rule corpus:
    output:
        train=f"{RESOURCES}/corpora/{{corpus}}/train.parquet",
        validation=f"{RESOURCES}/corpora/{{corpus}}/validation.parquet",
        calibration=f"{RESOURCES}/corpora/{{corpus}}/calibration.parquet",
        manifest=f"{RESOURCES}/corpora/{{corpus}}/manifest.json",
    log:
        f"{RESULTS}/logs/corpus/{{corpus}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/corpus/{{corpus}}.tsv"
    conda:
        ENV
    params:
        corpus="{corpus}",
        definition=pinned_corpus,
        code=fingerprint("corpus"),
    script:
        "../../scripts/corpus.py"
