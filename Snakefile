# Consilience: three independent explanations of an image classifier, cross-examined.
#
#   snakemake --cores 8                                       the default study (config.yaml)
#   snakemake --cores 8 --configfile studies/photographs.yaml another one, merged over the default
from pathlib import Path

from snakemake.utils import min_version

min_version("9.27")


# Of the workflow, wherever Snakemake is run.
configfile: str(Path(workflow.basedir) / "config.yaml")


report: "workflow/report/captions/workflow.rst"


include: "rules/assets.smk"


if not UNREADY:  # while files are missing, fetching them is all there is to do

    include: "rules/common.smk"
    include: "rules/layers.smk"
    include: "rules/check.smk"
    include: "rules/world.smk"
    include: "rules/probe.smk"
    include: "rules/dissect.smk"
    include: "rules/explain.smk"
    include: "rules/agree.smk"
    include: "rules/faithfulness.smk"
    include: "rules/sanity.smk"
    include: "rules/truth.smk"
    include: "rules/judge.smk"
    include: "rules/benchmark.smk"
    include: "rules/report.smk"

    end_parsing()


localrules:
    all,


rule all:
    default_target: True
    input:
        (
            rules.assets.input
            if UNREADY
            else [
                RESULTS / "check.json",
                final_tables(),
                neuron_cards(),
                explain_params(),
                [RESULTS / "report.html"] if ACTS["report"] else [],
                [PDF] if PRINTED else [],
            ]
        ),
