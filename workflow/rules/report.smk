# report: tables and figures as a notebook and as one self-contained HTML file.


localrules:
    report,


rule report:
    input:
        tables=[f"{PATHS.tables()}/{table}.parquet" for table in TABLES],
        captions=[f"reports/captions/{name}.rst" for name in ["figure", *TABLES]],
        template="reports/report.py",
        page="reports/page.html",
        citation="CITATION.cff",
    output:
        html=report(
            PATHS.report(),
            caption="../../reports/captions/report.rst",
            category="Report",
            labels={"study": "{study}"},
        ),
        notebook=PATHS.notebook(),
    log:
        f"{PATHS.logs('report')}/{{study}}.log",
    conda:
        ENV
    params:
        title=TITLE,
        theme=config["plot"],
        code=fingerprint("report", "../reports/report"),
    script:
        "../../scripts/report.py"
