# report: tables and figures as one self-contained HTML file.


localrules:
    report,


rule report:
    input:
        tables=[f"{PATHS.tables()}/{table}.parquet" for table in TABLES],
        figures=[f"{PATHS.figures()}/{figure}.svg" for figure in FIGURES],
        manifests=checkpoint_manifests() + quantized_manifests(PLAN.cells),
        captions=["reports/captions/figure.rst", "reports/captions/measurements.rst"],
        template="reports/report.py",
        page="reports/page.html",
        citation="CITATION.cff",
    output:
        report(
            PATHS.report(),
            caption="../../reports/captions/report.rst",
            category="Report",
            labels={"study": "{study}"},
        ),
    log:
        f"{PATHS.logs('report')}/{{study}}.log",
    conda:
        ENV
    params:
        title=TITLE,
        code=fingerprint("report", "lib/report/pages"),
    script:
        "../../scripts/report.py"
