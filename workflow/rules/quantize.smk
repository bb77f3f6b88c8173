# quantize: one method applied to one checkpoint. The baseline `none` has no job here.


rule quantize:
    input:
        manifest=f"{CHECKPOINT}/manifest.json",
        weights=ancient(f"{CHECKPOINT}/model"),
        recipe="config/recipes/{method}.yaml",
        tokens_manifest=calibration_tokens("manifest"),
        tokens=calibration_tokens("tokens"),
    output:
        model=quantized_weights(f"{QUANTIZED}/model"),
        manifest=f"{QUANTIZED}/manifest.json",
    log:
        f"{RESULTS}/logs/quantize/{{trajectory}}/{{checkpoint}}/{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/quantize/{{trajectory}}/{{checkpoint}}/{{method}}.tsv"
    conda:
        ENV
    threads: THREADS
    resources:
        **asks("quantize", gpu=True),
    params:
        **MACHINE,
        code=quantizer_code,
    script:
        "../../scripts/quantize.py"
