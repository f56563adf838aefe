"""Agreement of 1,000 pairs of maps: ours and a plain loop, one thread, times of the processor.

A picture has three CAMs and LIME, six pairs. The plain loop compares each pair anew with
scipy.stats.spearmanr, a quantile's mask for the top region and, with all measures, scipy's
pearsonr and scikit-image's structural similarity, no more; it has no controls. Ours works ranks
and regions out once per map; with controls it makes 45 comparisons a pair instead of one, with
stand-ins for either map (10 draws). The earth mover's distance is timed by itself, against SciPy's
linear programme on a few pairs.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from itertools import combinations

import cv2
import numpy as np
import skimage
from scipy.optimize import linprog
from scipy.stats import pearsonr, spearmanr
from skimage.metrics import structural_similarity
from skimage.segmentation import slic

from consilience.agreement import HEADLINE, METRICS, Comparison, compare_explanations
from consilience.controls import Batch
from consilience.measures import Explanation, Heatmap, Superpixels, pixel_values

# Side of the picture and of the layer's map, superpixels.
SIZES = ((96, 6, 40), (224, 7, 50))
REPEATS = 3


def make_picture(
    side: int, grid: int, superpixels: int, seed: int
) -> tuple[np.ndarray, dict[str, Explanation]]:
    """Return a view of smooth noise, three random CAMs and a random LIME."""
    rng = np.random.default_rng(seed)
    view = cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (side, side))
    maps: dict[str, Explanation] = {}
    for method in ("ablation-cam", "grad-cam", "score-cam"):
        layer = rng.standard_normal((grid, grid), dtype=np.float32)
        rectified = np.maximum(layer, 0)
        maps[method] = Heatmap(cv2.resize(rectified / rectified.max(), (side, side)), layer)
    found = slic(view, n_segments=superpixels, compactness=30, sigma=1)
    segments = np.unique(found, return_inverse=True)[1].reshape(side, side)
    maps["lime"] = Superpixels(segments, rng.normal(size=segments.max() + 1))
    return view, maps


def compare_plainly(maps: dict[str, Explanation], every: bool) -> list[float]:
    """Compare each two maps as a short script would."""
    superpixels = maps["lime"]
    pixels = {
        name: pixel_values(each).reshape(superpixels.segment_map.shape)
        for name, each in maps.items()
    }
    found = []
    for a, b in combinations(sorted(maps), 2):
        x, y = pixels[a], pixels[b]
        found.append(spearmanr(x.ravel(), y.ravel()).statistic)
        tops = [values >= np.quantile(values, 0.8) for values in (x, y)]
        found.append((tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum())
        sums = [
            each.weights if each is superpixels else superpixels.sum_over(pixel_values(each))
            for each in (maps[a], maps[b])
        ]
        found.append(spearmanr(*sums).statistic)
        if every:
            found.append(pearsonr(x.ravel(), y.ravel()).statistic)
            scaled = [(values - values.min()) / np.ptp(values) for values in (x, y)]
            found.append(structural_similarity(*scaled, data_range=1))
    return found


def measure(work: Callable[[], object]) -> float:
    """Return seconds of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def control(pictures: list, metrics: tuple[str, ...]) -> None:
    """Compare all pictures with controls, each standing in for the others."""
    names = [f"{number:03d}" for number in range(len(pictures))]
    explanations = {(name, 0): maps for name, (_, maps) in zip(names, pictures, strict=True)}
    bases = [{"name": name, "base": None} for name in names]
    batch = Batch(explanations, bases, {"metrics": metrics})
    for name, (view, maps) in zip(names, pictures, strict=True):
        rng = np.random.default_rng(0)
        repeats = [
            maps["lime"].weights + rng.normal(size=len(maps["lime"].weights))
            for _ in range(REPEATS)
        ]
        batch.compare(name, 0, view, repeats)


def compare_emd(pictures: list) -> tuple[float, float, float]:
    """Return seconds a pair of ours, seconds a pair of SciPy's, and the largest difference."""
    metric = METRICS["emd"]
    masses = []
    for _, maps in pictures:
        prepared = Comparison(maps, {"metrics": ["emd"]}).prepared
        masses.append([prepared["grad-cam", "emd"], prepared["score-cam", "emd"]])
    ours: list[float] = []
    seconds = measure(lambda: ours.extend(metric.compare(a, b) for a, b in masses))
    y, x = np.mgrid[: metric.cells, : metric.cells].reshape(2, -1)
    costs = np.hypot(y[:, None] - y, x[:, None] - x)
    costs /= costs.max()
    theirs: list[float] = []

    def solve():
        for a, b in masses[:2]:
            rows, columns = np.flatnonzero(a), np.flatnonzero(b)
            n, m = len(rows), len(columns)
            equal = np.vstack([np.kron(np.eye(n), np.ones(m)), np.tile(np.eye(m), n)])
            theirs.append(
                linprog(
                    costs[np.ix_(rows, columns)].ravel(),
                    A_eq=equal,
                    b_eq=np.hstack([a[rows], b[columns]]),
                ).fun
            )

    solved = measure(solve)
    error = np.abs(np.subtract(ours[: len(theirs)], theirs)).max()
    return seconds / len(ours), solved / len(theirs), float(error)


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=1000)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    print(
        f"{platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}, "
        f"scikit-image {skimage.__version__}, OpenCV {cv2.__version__}; one thread; medians of "
        f"{given.rounds} rounds"
    )
    every = tuple(name for name in METRICS if name != "emd")
    count = max(2, round(given.pairs / 6))
    for side, grid, superpixels in SIZES:
        pictures = [make_picture(side, grid, superpixels, seed) for seed in range(count)]
        for title, metrics, all_measures in (
            ("headline", HEADLINE, False),
            ("all but the earth mover's", every, True),
        ):
            works = {
                "plain loop": lambda pictures=pictures, every=all_measures: [
                    compare_plainly(maps, every) for _, maps in pictures
                ],
                "ours": lambda pictures=pictures, metrics=metrics: [
                    compare_explanations(maps, {"metrics": metrics}) for _, maps in pictures
                ],
                "ours with controls": lambda pictures=pictures, metrics=metrics: control(
                    pictures, metrics
                ),
            }
            times: dict[str, list[float]] = {name: [] for name in works}
            for _ in range(given.rounds):
                for name, work in works.items():
                    times[name].append(measure(work))
            seconds = {name: statistics.median(column) for name, column in times.items()}
            said = ", ".join(
                f"{name} {value:.2f} s ({value / seconds['plain loop']:.2f} of the plain loop)"
                for name, value in seconds.items()
            )
            print(
                f"{side} pixels, {6 * count} pairs, {title}: {said}; with controls "
                f"{1000 * seconds['ours with controls'] / count:.0f} ms a picture"
            )
        ours, theirs, error = compare_emd(pictures[:20])
        print(
            f"{side} pixels, earth mover's distance: {1000 * ours:.1f} ms a pair, SciPy's linear "
            f"programme {theirs / ours:.0f} times that; largest difference {error:.0e}"
        )


if __name__ == "__main__":
    main()
