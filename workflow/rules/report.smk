# report: tables and figures as a notebook and as one self-contained HTML file.


localrules:
    report,


rule report:
    input:
        tables=[f"{RESULTS}/tables/{{study}}/{table}.parquet" for table in TABLES],
        captions=["reports/captions/figure.rst", "reports/captions/measurements.rst"],
        template="reports/report.py",
        page="reports/page.html",
        citation="CITATION.cff",
    output:
        html=report(
            f"{RESULTS}/report/{{study}}.html",
            caption="../../reports/captions/report.rst",
            category="Report",
            labels={"study": "{study}"},
        ),
        notebook=f"{RESULTS}/report/{{study}}.ipynb",
    log:
        f"{RESULTS}/logs/report/{{study}}.log",
    conda:
        ENV
    params:
        title=config["study"]["title"],
        code=fingerprint("report", "plot", "lib/report/tables", "lib/report/captions"),
    script:
        "../../scripts/report.py"
