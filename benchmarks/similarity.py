"""soft-WPMI of 2,000 pictures × 2,048 neurons × 20,000 concepts: ours and the plain definition.

The definition is evaluated neuron by neuron in float32, as CLIP-Dissect's own code does it. Each
run has a process of its own; runs take turns. The definition also runs with the allocator's
settings that our steps have.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import numpy as np

ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def make_inputs(pictures: int, neurons: int, concepts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return activations and cosines, spread like those of a large CLIP."""
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((pictures, neurons), dtype=np.float32)
    cosines = 0.2 + 0.03 * rng.standard_normal((pictures, concepts), dtype=np.float32)
    return activations, cosines


def evaluate_definition(activations: np.ndarray, cosines: np.ndarray, dtype: str) -> np.ndarray:
    """Evaluate the paper's equation 4 neuron by neuron; returns float, (neurons, concepts)."""
    import torch

    torch.set_num_threads(1)
    kind = getattr(torch, dtype)
    given = torch.softmax(10 * torch.from_numpy(cosines).to(kind), dim=1)
    top = torch.topk(torch.from_numpy(activations), 100, dim=0).indices
    weights = (0.998 - torch.arange(100, dtype=kind) / 100 * 0.028)[:, None]
    rows = [
        torch.log(1 + weights * (given[top[:, neuron]] - 1) + 1e-7).sum(dim=0)
        for neuron in range(activations.shape[1])
    ]
    logs = torch.stack(rows)
    prior = torch.logsumexp(logs, dim=0) - np.log(len(logs))
    return (logs - prior).numpy()


def run(who: str, size: list[int]) -> None:
    """Do one run and print seconds and the peak of the process's memory in GB."""
    inputs = make_inputs(*size)
    began = time.perf_counter()
    if who == "ours":
        from consilience.similarity import soft_wpmi

        soft_wpmi(*inputs)
    else:
        evaluate_definition(*inputs, "float32")
    seconds = time.perf_counter() - began
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def compare_labels(size: list[int], neurons: int) -> None:
    """Hold labels against those of the definition in float64, on some of the neurons' columns."""
    from consilience.similarity import soft_wpmi

    activations, cosines = make_inputs(size[0], neurons, size[2])
    exact = evaluate_definition(activations, cosines, "float64")
    ours = soft_wpmi(activations, cosines)
    theirs = evaluate_definition(activations, cosines, "float32")
    margin = np.diff(np.sort(exact, axis=1)[:, -2:]).ravel()
    for name, found in (("ours", ours), ("definition in float32", theirs)):
        wrong = found.argmax(axis=1) != exact.argmax(axis=1)
        print(
            f"{name}: largest error {np.abs(found - exact).max():.1e}; labels other than those of "
            f"the definition in float64: {wrong.sum()} of {neurons}"
            + (f", the widest margin among them {margin[wrong].max():.1e}" if wrong.any() else "")
        )


def main() -> None:
    """Print medians, ranges and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=3, default=[2000, 2048, 20000])
    parser.add_argument("--exact-neurons", type=int, default=256)
    parser.add_argument("--run", choices=["ours", "definition"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        run(given.run, given.size)
        return
    print(
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"one thread; {' × '.join(map(str, given.size))}"
    )
    bare = {key: value for key, value in os.environ.items() if key not in ALLOCATOR}
    bare |= {"OMP_NUM_THREADS": "1"}
    cases = {
        "ours": ("ours", bare | ALLOCATOR),
        "definition": ("definition", bare),
        "definition, our allocator": ("definition", bare | ALLOCATOR),
    }
    results: dict[str, list[tuple[float, ...]]] = {name: [] for name in cases}
    for _ in range(given.rounds):
        for name, (who, environment) in cases.items():
            command = [sys.executable, __file__, "--run", who, "--size", *map(str, given.size)]
            said = subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            ).stdout
            results[name].append(tuple(map(float, said.split())))
    ours = statistics.median(seconds for seconds, _ in results["ours"])
    for name, runs in results.items():
        seconds, memory = zip(*runs, strict=True)
        middle = statistics.median(seconds)
        print(
            f"{name}: median {middle:.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), peak "
            f"{min(memory):.2f} to {max(memory):.2f} GB; {middle / ours:.1f} times ours"
        )
    compare_labels(given.size, given.exact_neurons)


if __name__ == "__main__":
    main()
