# plot: one figure a job, from the tables alone.


localrules:
    plot,


rule plot:
    input:
        measurements=f"{PATHS.tables()}/measurements.parquet",
        checkpoints=f"{PATHS.tables()}/checkpoints.parquet",
        schedules=f"{PATHS.tables()}/schedules.parquet",
        training=f"{PATHS.tables()}/training.parquet",
        runs=f"{PATHS.tables()}/runs.parquet",
        verdicts=f"{PATHS.tables()}/verdicts.parquet",
        noise=f"{PATHS.tables()}/noise.parquet",
        mechanism=f"{PATHS.tables()}/mechanism.parquet",
        laws=f"{PATHS.tables()}/laws.parquet",
    output:
        svg=report(
            f"{PATHS.figures()}/{{figure}}.svg",
            caption="../../reports/captions/figure.rst",
            category="Figures",
            labels={"study": "{study}", "figure": "{figure}"},
        ),
        png=f"{PATHS.figures()}/{{figure}}.png",
        pdf=f"{PATHS.figures()}/{{figure}}.pdf",
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
