# quantize: one method applied to one checkpoint. The baseline `none` has no job here.


rule quantize:
    input:
        manifest=f"{CHECKPOINT}/manifest.json",
        weights=ancient(f"{CHECKPOINT}/model"),
        recipe=recipe_file,
        calibration=calibration_tokens,
        probe=probe_tokens,
    output:
        model=quantized_weights(f"{QUANTIZED}/model"),
        layers=f"{QUANTIZED}/layers.parquet",
        manifest=f"{QUANTIZED}/manifest.json",
    log:
        f"{PATHS.logs('quantize')}/{{trajectory}}/{{checkpoint}}/{{method}}.log",
    benchmark:
        f"{PATHS.benchmarks('quantize')}/{{trajectory}}/{{checkpoint}}/{{method}}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **asks("quantize", gpus=1),
    params:
        **QUANTIZING,
        text=drawn_text,
        code=quantizer_code,
    script:
        "../../scripts/quantize.py"
