# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
study = "demo"
title = ""
theme = {}  # of the figures: arguments of seaborn.set_theme, in a study those of its config's section `plot`
tables = "results/tables/demo"  # seen from the root of the clone
unfinished = False  # whether a run may still bring what is missing

# %%
import os
from pathlib import Path

clone = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "Snakefile").is_file())
os.chdir(clone)  # Jupyter starts in the notebook's own folder

# %%
import polars as pl
from IPython.display import display

from scripts import plot
from scripts.lib.analysis.metrics import TASK, first_draws, rows_in
from scripts.lib.report import cards, figures, laws, mechanism
from scripts.lib.report import tables as show
from scripts.lib.report.captions import caption

found = {path.stem: pl.read_parquet(path) for path in sorted(Path(tables).glob("*.parquet"))}
all_draws = found["measurements"]
for name in ("measurements", "methods"):
    found[name] = first_draws(found[name])
measurements, checkpoints, verdicts, comparisons, missing, costs = (
    found[name] for name in ("measurements", "checkpoints", "verdicts", "comparisons", "missing", "costs")
)

display(show.heading(title, study, checkpoints, all_draws, found["datasets"], missing))
if unfinished:
    display(
        show.note("This study is not finished. What follows rests on the results that are there; these are missing:")
    )
    display(show.lacking(missing, "unfinished"))

# %% [markdown]
# ## Answers

# %%
display(cards.summary(verdicts))
cards.cards(verdicts, comparisons)

# %% [markdown]
# ## What to ship

# %%
choices = found["choices"]
display(cards.shipping(choices))
if len(choices):
    display(show.folded(f"All {len(choices)} candidates", show.chosen(choices), caption(study, "choices")))

# %% [markdown]
# ## Harm and loss along training

# %%
figures.use_style(theme)
figures.inline(plot.overview(found), "overview", caption(study, "figure", "overview"))

# %% [markdown]
# ## All claims

# %%
figures.inline(plot.claims(found), "claims", caption(study, "figure", "claims"))

# %%
display(show.decided(verdicts))
show.folded(f"All {len(comparisons)} comparisons", show.compared(comparisons))

# %% [markdown]
# ## Figures
#
# ### Loss vs tokens

# %%
figures.inline(plot.loss_vs_tokens(found), "loss_vs_tokens", caption(study, "figure", "loss_vs_tokens"))

# %% [markdown]
# ### Error vs tokens

# %%
figures.inline(plot.error_vs_tokens(found), "error_vs_tokens", caption(study, "figure", "error_vs_tokens"))

# %% [markdown]
# ### Baseline vs quantized

# %%
figure = plot.baseline_vs_quantized(found)
figures.inline(figure, "baseline_vs_quantized", caption(study, "figure", "baseline_vs_quantized"))

# %% [markdown]
# ### Errors by method

# %%
figures.inline(plot.errors_by_method(found), "errors_by_method", caption(study, "figure", "errors_by_method"))

# %% [markdown]
# ### Tasks

# %%
figures.inline(plot.tasks(found), "tasks", caption(study, "figure", "tasks"))

# %% [markdown]
# ### Training

# %%
figures.inline(plot.training(found), "training", caption(study, "figure", "training"))

# %% [markdown]
# ## Noise
#
# How far a number moves where nothing that the study asks about has changed: standard deviations of one cell, with
# their degrees of freedom in brackets. Seeds hold the draws of calibration text and the scatter of neighbours, too.

# %%
show.noisy(found["noise"])

# %% [markdown]
# ## Mechanism
#
# What a penalty is made of: how far quantization moves the weights, how the loss bends in that direction, and the rest.

# %%
if "mechanism" in found:
    display(figures.inline(plot.mechanism(found), "mechanism", caption(study, "figure", "mechanism")))
    if found["mechanism"].height:
        display(show.folded("All sliced cells", mechanism.shown(found["mechanism"]), caption(study, "mechanism")))
        display(show.folded("A random direction, blocks and layers alone", mechanism.beside(found["mechanism"])))
        pieces = mechanism.parts(found["mechanism_parts"])
        display(show.folded("Penalty by block and kind of layer", pieces, caption(study, "mechanism_parts")))
else:
    display(show.note("What penalties are made of is told by the workflow itself, once all of a study is measured."))

# %% [markdown]
# ## Laws
#
# What laws of loss and of penalty are good for here: fitted to some runs of the study, they predict how others go on.

# %%
if "laws" in found:
    display(laws.sentences(found["laws"]))
    display(figures.inline(plot.laws(found), "laws", caption(study, "figure", "laws")))
    display(show.folded("All parameters and scores", laws.shown(found["laws"]), caption(study, "laws")))
else:
    display(show.note("Laws are fitted by the workflow itself, once all of a study is measured."))

# %% [markdown]
# ## Runs

# %%
show.ran(found["runs"], checkpoints)

# %% [markdown]
# ## Measurements
#
# ### Loss at the end of every trajectory

# %%
losses = show.errors(measurements)
if units := show.units(measurements):
    display(show.note(f"Loss in {units}; relative errors have paired intervals of documents."))
show.losses("ends", show.ends(losses))

# %%
show.folded(f"All {len(losses)} losses", show.losses("losses", losses))

# %%
show.note(caption(study, "measurements"))

# %% [markdown]
# ### Task scores

# %%
scores = rows_in(measurements, TASK)
show.folded(f"All {len(scores)} scores", show.task_scores(scores)) if len(scores) else show.task_scores(scores)

# %% [markdown]
# ## Methods
#
# Only linear layers of the decoder blocks are quantized. **Loss added**, in nats a token, is the mean over the cells of
# a method, with its range over cells in brackets: it is what a method costs. Weight error, the mean over layers of the
# relative error of the dequantized weights, says how far weights moved, and does not tell what that does to the loss:
# GPTQ moves them further than round-to-nearest does and adds less, and of two methods with equal weight errors one can
# add twice the other's loss. It serves to see that a method ran at the bits that it names.

# %%
show.described(found["methods"], measurements)

# %% [markdown]
# ## Missing cells

# %%
show.lacking(missing)

# %% [markdown]
# ## Costs

# %%
display(show.note(f"Sums over jobs; together {show.duration(costs['wall_seconds'].sum())} of job time."))
show.spent(costs)

# %% [markdown]
# ## Versions

# %%
show.used(found["versions"])

# %% [markdown]
# ## How to cite

# %%
show.cited(Path("CITATION.cff"))
