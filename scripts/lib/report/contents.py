"""Figures of the report in their order; each is the function of this name in scripts/plot.py."""

FIGURES = (
    *("overview", "claims", "loss_vs_tokens", "error_vs_tokens", "baseline_vs_quantized", "errors_by_method", "tasks"),
    *("training", "mechanism", "laws"),
)
