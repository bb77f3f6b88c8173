# plot: one figure a job, from the tables alone.


localrules:
    plot,


rule plot:
    input:
        measurements=f"{RESULTS}/tables/{{study}}/measurements.parquet",
        checkpoints=f"{RESULTS}/tables/{{study}}/checkpoints.parquet",
        schedules=f"{RESULTS}/tables/{{study}}/schedules.parquet",
    output:
        svg=report(
            f"{RESULTS}/figures/{{study}}/{{figure}}.svg",
            caption="../../reports/captions/figure.rst",
            category="Figures",
            labels={"study": "{study}", "figure": "{figure}"},
        ),
        png=f"{RESULTS}/figures/{{study}}/{{figure}}.png",
    log:
        f"{RESULTS}/logs/plot/{{study}}/{{figure}}.log",
    conda:
        ENV
    params:
        figure="{figure}",
        code=fingerprint("plot"),
    script:
        "../../scripts/plot.py"
