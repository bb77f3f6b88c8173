# corpus: documents from packages, files or a hub; near-duplicates removed; split by a hash of the document.


localrules:
    corpus,


rule corpus:
    output:
        train=f"{PATHS.corpus()}/train.parquet",
        validation=f"{PATHS.corpus()}/validation.parquet",
        calibration=f"{PATHS.corpus()}/calibration.parquet",
        manifest=f"{PATHS.corpus()}/manifest.json",
    log:
        f"{PATHS.logs('corpus')}/{{corpus}}.log",
    benchmark:
        f"{PATHS.benchmarks('corpus')}/{{corpus}}.tsv"
    conda:
        ENV
    resources:
        downloads=1,
    params:
        corpus="{corpus}",
        definition=pinned_corpus,
        code=fingerprint("corpus"),
    script:
        "../../scripts/corpus.py"
