"""Memory and time of the dissection over probe sets of 10,000 to 1,280,000 pictures.

Activations of 512 neurons and embeddings of 512 dimensions are generated instead of computed; there
are 1,000 concepts. Each size and similarity has a process of its own.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from consilience.dissection import Concepts, dissect_model
from consilience.probe import ProbeSet
from consilience.tables import ACTIVATIONS, EMBEDDINGS, write_table

SHARD = 10_000
NEURONS, DIMENSIONS, CONCEPTS = 512, 512, 1000
SIZES = (10_000, 160_000, 1_280_000)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length one."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lists(values: np.ndarray) -> pa.ListArray:
    """Turn rows into lists."""
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, values.ravel())


def write_shard(folder: Path, shard: int) -> None:
    """Write one shard of pictures; a third of the neurons are tied to a concept."""
    rng = np.random.default_rng([1, shard])
    names = [f"{shard:04d}/{picture:05d}.jpg" for picture in range(SHARD)]
    vectors = unit(rng.standard_normal((SHARD, DIMENSIONS), dtype=np.float32))
    activations = rng.standard_normal((SHARD, NEURONS), dtype=np.float32)
    tied = concepts().vectors[: NEURONS // 3]
    activations[:, : len(tied)] += 40 * vectors @ tied.T
    table = pa.table({"picture": names, "layer": ["l"] * SHARD, "values": lists(activations)})
    write_table(table, folder / f"activations-{shard}.parquet", ACTIVATIONS)
    table = pa.table({"key": names, "values": lists(vectors)})
    write_table(table, folder / f"pictures-{shard}.parquet", EMBEDDINGS)


def concepts() -> Concepts:
    """Return the concepts, the same in every process."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((CONCEPTS, DIMENSIONS), dtype=np.float32))
    return Concepts([f"concept {n}" for n in range(CONCEPTS)], vectors)


def run(folder: Path, similarity: str, pictures: int) -> None:
    """Label the neurons and print seconds, the peak of memory in MB, and right labels."""
    shards = range(pictures // SHARD)
    probe = ProbeSet(
        [folder / f"activations-{shard}.parquet" for shard in shards],
        [folder / f"pictures-{shard}.parquet" for shard in shards],
        held_out=0.25,
    )
    began = time.perf_counter()
    rows, _ = dissect_model("m", probe, concepts(), ["l"], similarity, resamples=10)
    seconds = time.perf_counter() - began
    right = sum(row["concept"] == f"concept {row['unit']}" for row in rows[: NEURONS // 3])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(seconds, memory, right / (NEURONS // 3))


def main() -> None:
    """Print a line for each similarity and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument(
        "--similarity", nargs="+", default=["soft-wpmi", "wpmi", "cosine", "cosine-cubed"]
    )
    parser.add_argument("--folder", help="where the files go; by default a temporary folder")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run(Path(given.folder), given.run[0], int(given.run[1]))
        return
    folder = Path(given.folder or tempfile.mkdtemp())
    sizes = [size for size in SIZES if size <= given.largest]
    for shard in range(sizes[-1] // SHARD):
        if not (folder / f"pictures-{shard}.parquet").exists():
            write_shard(folder, shard)
    for similarity in given.similarity:
        first = None
        for size in sizes:
            command = [sys.executable, __file__, "--folder", folder]
            said = subprocess.run(
                [*command, "--run", similarity, str(size)],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            seconds, memory, right = map(float, said.split())
            first = first or memory
            print(
                f"{similarity}, {size:,} pictures: {seconds:.1f} s, "
                f"{1e6 * seconds / size:.0f} µs a picture; peak {memory:.0f} MB, "
                f"{memory / first:.2f} of that at {sizes[0]:,}; {right:.0%} of the tied neurons "
                "get their concept",
                flush=True,
            )
    if not given.folder:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
