# Helpers of the rules that take checkpoints, tokenizers and data from elsewhere: folders, averages, a hub.

from collections import defaultdict

from scripts.lib.study import needs
from scripts.lib.study.trajectories.published import require_pins

CELLS = defaultdict(list)  # of each checkpoint
for cell in PLAN.cells:
    CELLS[cell.trajectory, cell.step].append(cell)


def refuse_what_cannot_run():
    """What may be looked at (-n), and not be started."""
    try:
        require_pins(PLAN.trajectories)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


def tokenizer_definition(wildcards):
    return PLAN.tokenizer_definition(wildcards.tokenizer)


def tokenizer_corpus(wildcards):
    """Manifest of the corpus that a tokenizer is trained on, if it is."""
    corpus = tokenizer_definition(wildcards).get("corpus")
    return f"{PATHS.corpus(corpus)}/manifest.json" if corpus else []


def tokenizer_text(wildcards):
    corpus = tokenizer_definition(wildcards).get("corpus")
    return ancient(f"{PATHS.corpus(corpus)}/train.parquet") if corpus else []


def local_folder(wildcards):
    return trajectory_of(wildcards).path(step_of(wildcards))


def local_weights(wildcards):
    """The weight files of a user's folder, whose content is published."""
    return [str(path) for path in weight_files(local_folder(wildcards))]


def members(name):
    """Input function: a file of each of the checkpoints that one average is made of."""

    def paths(wildcards):
        points = trajectory_of(wildcards).made_from(step_of(wildcards))
        found = [of_checkpoint(name, *point) for point in points]
        return found if name == "manifest.json" else [ancient(path) for path in found]

    return paths


def published(wildcards):
    """Where a checkpoint is on the hub, and its commit and files as far as they are locked."""
    return trajectory_of(wildcards).published(step_of(wildcards))


def fetched_weights(path):
    """A published checkpoint's folder; deleted after its last measurement if the study does not keep weights."""
    return directory(path) if config["fetch"]["keep_weights"] else temp(directory(path))


def measured_before(wildcards):
    """Under a disk budget: the mark of the checkpoint that has to be measured before this one is fetched."""
    before = WAITS_FOR.get((wildcards.trajectory, step_of(wildcards)))
    return PATHS.measured(STUDY, before[0], f"step-{before[1]}") if before else []


def measurements_of_checkpoint(wildcards):
    """All that the study makes and measures of one checkpoint."""
    point = wildcards.trajectory, step_of(wildcards)
    cells = CELLS[point]
    made = [of_checkpoint("manifest.json", *point), *quantized_manifests(cells)]
    return made + loss_tables(cells) + task_tables(cells) + slice_tables(cells) + layer_tables(cells)


def locked_tokenizer(wildcards):
    return PLAN.locked_tokenizer(wildcards.tokenizer)


def locked_dataset(wildcards):
    """Commit and hash of a data set's file, where a lock has them."""
    name = f"{wildcards.configuration}/{wildcards.part}/0000.parquet"
    return locks.of_dataset("config/datasets", wildcards.dataset, name)


def pinned_corpus(wildcards):
    """What a corpus is made of; of a hub's data set, at the commit that a lock has."""
    return locks.pin("config/datasets", PLAN.corpora[wildcards.corpus])


def prefetched():
    """All that comes from a network, and what is made of it without a model: published checkpoints, corpora, tasks.

    Checkpoints that are deleted once they are measured are fetched when their turn comes.
    """
    published = needs.published_needed(PLAN)
    tokenizers = sorted({PLAN.trajectories[name].tokenizer for name, _ in published})
    corpora = needs.corpora_needed(PLAN, needs.tokens_needed(PLAN))
    data = [path for suite in PLAN.suites.values() for path in suite["documents"] + suite["datasets"]]
    data += [f"datasets/suite-{name}.json" for name, suite in PLAN.suites.items() if suite["datasets"]]
    return [
        *(of_checkpoint("manifest.json", *point) for point in published if config["fetch"]["keep_weights"]),
        *(f"{PATHS.tokenizer(name)}/manifest.json" for name in tokenizers),
        *(f"{PATHS.corpus(name)}/manifest.json" for name in corpora),
        *(f"{RESOURCES}/{path}" for path in data),
    ]
