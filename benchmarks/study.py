"""Where a finished study's time went, from the benchmark files that Snakemake wrote."""

import csv
import sys
from collections import defaultdict
from pathlib import Path


def main(results: Path) -> None:
    """Print the wall time of each rule's jobs: count, sum and longest, the longest sum first."""
    seconds = defaultdict(list)
    for path in sorted((results / "benchmarks").glob("*.tsv")):
        with open(path, newline="") as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        seconds[path.stem.split("-")[0]].append(float(row["s"]))
    for rule, times in sorted(seconds.items(), key=lambda item: -sum(item[1])):
        print(f"{rule:24}{len(times):4} jobs {sum(times):8.1f} s, longest {max(times):6.1f} s")
    jobs, total = sum(map(len, seconds.values())), sum(map(sum, seconds.values()))
    print(f"{'all':24}{jobs:4} jobs {total:8.1f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
