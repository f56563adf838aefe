# Files of others: weights, word lists, photographs. A study that needs none has no such rule.
#
# Read before common.smk, which can only take a study whose files are there. So while a file is
# missing that the study names by path, fetching is all that there is to do, and the same command
# given again runs the study. Weights that it names by name are fetched before the check.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))

from consilience import assets, configuration
from consilience.errors import ConsilienceError
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

try:
    configuration.check_place(workflow.basedir)
    configuration.check_form(config, workflow.configfiles)
except ConsilienceError as error:
    raise WorkflowError(f"This study cannot run:\n{error}")

ASSETS_INDEX = Path("results") / config["study"] / "index" / "assets.json"
ASSETS_FROM = assets.Source(config.get("assets_dir"), config.get("assets_mirror"))

try:
    PINNED, NAMED = assets.resolve_assets(
        config, ASSETS_INDEX, main=workflow.is_main_process
    )
    # A weight that is lost later is fetched alone too: the check, which would ask for it, is over.
    UNREADY = PINNED + (
        NAMED if (ASSETS_INDEX.parents[1] / "check.json").is_file() else []
    )
    UNREADY = [asset for asset in UNREADY if not Path(asset.path).is_file()]
    if workflow.is_main_process:
        assets.find_missing(PINNED + NAMED)  # refuses other files in their place
    if UNREADY:
        # What else is wrong is said before anything is fetched.
        configuration.resolve_study(
            assets.stand_in(config, UNREADY), workflow.configfiles
        )
        logger.warning(
            "Some files of others are missing: this run fetches them, and no more. "
            "Give the same command again to run the study."
        )
except ConsilienceError as error:
    raise WorkflowError(f"This study cannot run:\n{error}")


if PINNED or NAMED:

    # No parameters and no environment: where they changed, with the version of a package or from
    # one study to another, Snakemake would delete the file and fetch it again.
    for asset in PINNED + NAMED:

        rule:
            name:
                "fetch_" + "".join(c if c.isalnum() else "_" for c in asset.name)
            output:
                asset.path,
            log:
                ASSETS_INDEX.parents[1] / f"logs/fetch_asset-{asset.name}.log",
            benchmark:
                ASSETS_INDEX.parents[1] / f"benchmarks/fetch_asset-{asset.name}.tsv"
            # Cluster nodes often have no network.
            localrule: True
            threads: 1
            resources:
                mem_mb=500,
                runtime=240,
            message:
                f"Fetch {asset.name}, {asset.said_size}, of {asset.owner}"
            script:
                "../workflow/scripts/fetch_asset.py"

    rule assets:
        input:
            [asset.path for asset in PINNED + NAMED],
        localrule: True

    onerror:
        if missing := [a for a in PINNED + NAMED if not Path(a.path).is_file()]:
            logger.error(assets.describe_missing(missing, ASSETS_FROM))
