# evaluate_loss: cross-entropy, divergence from the baseline and top-1 agreement of one cell on one corpus.


rule evaluate_loss:
    input:
        manifest=cell_file("manifest.json"),
        weights=cell_file("model"),
        baseline_manifest=baseline_file("manifest.json"),
        baseline=baseline_file("model"),
        validation=validation_tokens,
        tokenizer=tokenizer_of,
    output:
        PATHS.loss(),
    log:
        f"{PATHS.logs('evaluate_loss')}/{{trajectory}}/{{checkpoint}}/{{method}}/{{corpus}}.log",
    benchmark:
        f"{PATHS.benchmarks('evaluate_loss')}/{{trajectory}}/{{checkpoint}}/{{method}}/{{corpus}}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **asks("evaluate_loss", gpus=1),
    params:
        **config["evaluate_loss"],
        **config["compute"],
        hidden=hidden_states,
        code=fingerprint("evaluate_loss"),
    script:
        "../../scripts/evaluate_loss.py"
