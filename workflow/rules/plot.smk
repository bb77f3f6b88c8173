# plot: one figure a job, from the tables alone.


localrules:
    plot,


rule plot:
    input:
        measurements=f"{PATHS.tables()}/measurements.parquet",
        checkpoints=f"{PATHS.tables()}/checkpoints.parquet",
        schedules=f"{PATHS.tables()}/schedules.parquet",
    output:
        svg=report(
            f"{PATHS.figures()}/{{figure}}.svg",
            caption="../../reports/captions/figure.rst",
            category="Figures",
            labels={"study": "{study}", "figure": "{figure}"},
        ),
        png=f"{PATHS.figures()}/{{figure}}.png",
    log:
        f"{PATHS.logs('plot')}/{{study}}/{{figure}}.log",
    conda:
        ENV
    params:
        figure="{figure}",
        theme=config["plot"],
        code=fingerprint("plot"),
    script:
        "../../scripts/plot.py"
