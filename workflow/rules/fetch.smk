# fetch: published checkpoints, and their tokenizers, from a model hub; where Snakemake was started, for it has a network.
# make_room, measured: under a disk budget a checkpoint waits until an earlier one is measured. Two marks of their own, for
# a fetch whose own inputs changed with the budget would be done again. Each mark of a lane asks for the one before it, so
# that the order holds too where only some checkpoints of the lane are measured again.


localrules:
    fetch,
    fetch_tokenizer,
    make_room,
    measured,


rule fetch_tokenizer:
    output:
        tokenizer=directory(f"{PATHS.tokenizer()}/tokenizer"),
        manifest=f"{PATHS.tokenizer()}/manifest.json",
    log:
        f"{PATHS.logs('fetch_tokenizer')}/{{tokenizer}}.log",
    wildcard_constraints:
        tokenizer=any_of(fetched_tokenizers()),
    conda:
        ENV
    resources:
        downloads=1,
    params:
        definition=tokenizer_definition,
        locked=locked_tokenizer,
        state=f"{PATHS.state()}/fetch_tokenizer/{{tokenizer}}",
        code=fingerprint("fetch_tokenizer"),
    script:
        "../../scripts/fetch_tokenizer.py"


rule fetch:
    input:
        tokenizer=tokenizer_of,
        room=ancient(f"{CHECKPOINT}/room"),
    output:
        model=fetched_weights(f"{CHECKPOINT}/model"),
        manifest=f"{CHECKPOINT}/manifest.json",
    log:
        f"{PATHS.logs('fetch')}/{{trajectory}}/{{checkpoint}}.log",
    benchmark:
        f"{PATHS.benchmarks('fetch')}/{{trajectory}}/{{checkpoint}}.tsv"
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("hub")),
    conda:
        ENV
    resources:
        downloads=1,
    params:
        published=published,
        identity=identity,
        state=f"{PATHS.state()}/fetch/{{trajectory}}/{{checkpoint}}",
        code=fingerprint("fetch"),
    script:
        "../../scripts/fetch.py"


rule make_room:
    input:
        measured_before,
    output:
        touch(f"{CHECKPOINT}/room"),
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("hub")),


rule measured:
    input:
        measurements_of_checkpoint,
        before=measured_before,
    output:
        PATHS.measured(STUDY),
    log:
        f"{PATHS.logs('measured')}/{STUDY}/{{trajectory}}/{{checkpoint}}.log",
    wildcard_constraints:
        trajectory=any_of(PLAN.by_source("hub")),
    conda:
        ENV
    params:
        hidden=hidden_folder,
    script:
        "../../scripts/measured.py"
