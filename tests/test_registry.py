"""What users register, as docs/extending.md writes it, through the real library."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from conftest import REPOSITORY
from consilience import (
    agreement,
    cam,
    classifiers,
    controls,
    dissection,
    extensions,
    faithfulness,
    images,
    localization,
    probe,
    registry,
    similarity,
    tables,
)
from consilience.errors import ConsilienceError
from consilience.measures import Superpixels, UndefinedError
from pages import write_files

PAGE = REPOSITORY / "docs/extending.md"


@pytest.fixture
def forgetting(monkeypatch):
    """Nothing that a test registers, imports or adds to the path outlives it."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for kind in registry.KINDS:
        for name in list(registry._registered[kind]):
            registry.forget(kind, name)
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture
def loaded(tmp_path, monkeypatch, forgetting):
    """The page's files, written and loaded."""
    monkeypatch.chdir(tmp_path)
    entries = extensions.find_entries(write_files(tmp_path, PAGE))
    registry.load(extensions.select(entries, [(entry.kind, entry.name) for entry in entries]))
    assert {entry.kind for entry in entries} == set(registry.KINDS)
    return entries


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.last = nn.Conv2d(6, 4, 3, padding=1)
        self.fc = nn.Linear(4, 3)

    def forward(self, pictures):
        maps = torch.relu(self.last(torch.relu(self.conv(pictures))))
        return self.fc(maps.mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    transform = images.Transform(mean=(0.5,) * 3, std=(0.25,) * 3)
    return classifiers.Classifier("net", Net().eval(), ("a", "b", "c"), transform)


@pytest.fixture
def views():
    return np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)


def maps_of(rows):
    return [row["heatmap"].reshape(row["height"], row["width"]) for row in rows]


def test_a_function_is_a_cam(forgetting, net, views):
    @registry.cam("grad-cam-again")
    def again(activations, gradients):
        return (gradients.mean(axis=(2, 3), keepdims=True) * activations).sum(axis=1)

    for size in (1, 32):
        ours, theirs = (
            maps_of(cam.explain_cam(net, method, "last", views, [0, 1, 2], size))
            for method in ("grad-cam", "grad-cam-again")
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.ptp(ours) > 0.5


def test_the_page_s_cams_explain(loaded, net, views):
    rows = cam.explain_cam(net, "positive-grad-cam", "last", views, [0, 1, 2])
    assert {row["method"] for row in rows} == {"positive-grad-cam"}
    grad_cam = maps_of(cam.explain_cam(net, "grad-cam", "last", views, [0, 1, 2]))
    assert not np.allclose(maps_of(rows), grad_cam)
    # A picture at a time, as the class asks for.
    alone = cam.explain_cam(net, "occlusion-cam", "last", views[1:2], [1])
    together = cam.explain_cam(net, "occlusion-cam", "last", views, [0, 1, 2])
    np.testing.assert_array_equal(maps_of(alone)[0], maps_of(together)[1])
    assert not [hook for module in net.model.modules() for hook in module._forward_hooks]


def test_a_cam_that_returns_no_map_is_named(forgetting, net, views):
    @registry.cam("my-weights")
    def weights(activations):
        return activations.mean(axis=(2, 3))

    with pytest.raises(ConsilienceError, match=r"'my-weights' returned .* of shape \(3, 4\), not"):
        cam.explain_cam(net, "my-weights", "last", views, [0, 1, 2])


@pytest.mark.parametrize(
    ("kind", "thing", "said"),
    [
        (
            "cam",
            lambda a, b, c: 0,
            r"must take \(activations, gradients\) or \(activations\), not 3",
        ),
        ("cam", int, "int is not derived from pytorch-grad-cam's BaseCAM"),
        ("similarity", lambda activations: 0, r"must take \(activations, cosines\), not 1"),
        ("similarity", lambda a, c, *, k: 0, "its setting 'k' has no default"),
        ("agreement", lambda a: 0, r"must take \(a, b\), not 1"),
        ("agreement", int, "int is not derived from consilience.agreement.Measure"),
        ("faithfulness", lambda a: 0, r"must take \(picture, values, ranks, ask\), not 1"),
        ("localization", "text", "is a str; decorate a function"),
    ],
)
def test_what_does_not_suit_is_refused(forgetting, kind, thing, said):
    with pytest.raises(ConsilienceError, match=said):
        getattr(registry, kind)("my-own")(thing)
    assert not registry.is_registered(kind, "my-own")


def test_names_are_taken_once(forgetting):
    with pytest.raises(ConsilienceError, match="'iou' is one of Consilience's own"):
        registry.localization("iou")(lambda values, inside: 0)
    with pytest.raises(ConsilienceError, match="one of Consilience's own"):
        registry.localization("offset-right")(lambda values, inside: 0)
    with pytest.raises(ConsilienceError, match="a name has small letters"):
        registry.localization("My Measure")
    assert registry.localization("my-own")(score_one)
    assert registry.localization("my-own")(score_one)  # a file that is loaded twice
    with pytest.raises(ConsilienceError, match=r"registered twice, by .*score_one and .*score_two"):
        registry.localization("my-own")(score_two)
    with pytest.raises(ConsilienceError, match="it must be pixels, superpixels or signed"):
        registry.agreement("my-own", over="everything")(lambda a, b: 0)
    with pytest.raises(ConsilienceError, match="a class says higher_agrees, over and chance by"):
        registry.agreement("my-own", higher_agrees=False)(agreement.Pearson)


def test_what_others_read_cannot_be_written_to(forgetting, net, views):
    def write(*arrays, **_):
        arrays[0][...] = 0

    registry.similarity("my-own")(lambda a, c: write(a, c))
    registry.agreement("my-own")(lambda a, b: write(b, a))
    registry.localization("my-own")(lambda values, inside: write(inside, values))
    registry.faithfulness("my-own")(lambda picture, values, ranks, ask: write(picture))
    maps = {"grad-cam": peak_map(0, 0), "score-cam": peak_map(3, 4)}
    explanations = {0: {"grad-cam": np.random.default_rng(0).random((24, 24))}}
    for call in (
        lambda: similarity.SIMILARITIES["my-own"](np.ones((4, 3)), np.ones((4, 5))),
        lambda: agreement.compare_explanations(maps, {"metrics": ["my-own"]}),
        lambda: localization.score_localization(peak_map(0, 0), np.eye(12, 16), ["my-own"]),
        lambda: faithfulness.measure_picture(net, views[0], explanations, {"extra": ["my-own"]}),
    ):
        with pytest.raises(ValueError, match="read-only"):
            call()


def score_one(values, inside):
    return 1


def score_two(values, inside):
    return 2


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


WORDS = ["ball", "box", "ring", "star", "moon"]


def dissect_planted(folder, name, settings, **options):
    """Label five neurons that each fire on the pictures of one word, in two shards."""
    rng = np.random.default_rng(0)
    vectors = unit(np.linalg.qr(rng.standard_normal((8, 5)))[0].T)
    shows = np.arange(100) * 5 // 100
    embeddings = unit(vectors[shows] + 0.1 * rng.standard_normal((100, 8)))
    activations = np.float32(3 * np.eye(5)[shows] + rng.random((100, 5)))
    activations = np.column_stack([activations, np.full(100, np.nan, np.float32)])
    files = {"activations": [], "embeddings": []}
    for shard in (0, 1):
        mine = range(shard, 100, 2)
        for kind, schema, rows in (
            (
                "activations",
                tables.ACTIVATIONS,
                [{"picture": f"{n}.png", "layer": "l", "values": activations[n]} for n in mine],
            ),
            (
                "embeddings",
                tables.EMBEDDINGS,
                [{"key": f"{n}.png", "values": embeddings[n]} for n in mine],
            ),
        ):
            files[kind].append(folder / f"{kind}-{shard}.parquet")
            tables.write_table(rows, files[kind][-1], schema)
    return dissection.dissect_model(
        "m",
        probe.ProbeSet(**files, held_out=0.25),
        dissection.Concepts(WORDS, vectors),
        ["l"],
        name,
        settings,
        **options,
    )


def test_the_page_s_similarity_labels_neurons(loaded, tmp_path):
    rows, resampled = dissect_planted(tmp_path, "top-mean", {"top_k": 8}, resamples=2)
    assert [row["concept"] for row in rows] == [*WORDS, None]
    assert rows[5]["status"] == "not-finite"
    assert all(row["p_value"] < 0.05 and row["auroc"] > 0.7 for row in rows[:5])
    assert all(row["stable_pictures"] and row["stable_concepts"] for row in rows[:5])
    assert [list(row["concepts"]) for row in resampled[:5]] == [[n, n] for n in range(5)]
    with pytest.raises(ConsilienceError, match="'top-mean' has no setting 'top'"):
        dissect_planted(tmp_path, "top-mean", {"top": 8})


def test_a_registered_similarity_gives_what_ours_gives(forgetting, tmp_path):
    registry.similarity("my-cosine")(
        lambda activations, cosines: similarity.cosine(activations, cosines)
    )
    ours, theirs = (dissect_planted(tmp_path, name, {})[0] for name in ("cosine", "my-cosine"))
    for one, other in zip(ours, theirs, strict=True):
        assert one["candidates"] == other["candidates"]
        assert one["similarity"] == pytest.approx(other["similarity"])
        assert one["p_value"] == other["p_value"]


def test_labels_of_a_similarity_that_looks_at_all_concepts_may_not_be_stable(forgetting, tmp_path):
    @registry.similarity("my-rank")
    def prefer_the_second(activations, cosines):
        found = similarity.cosine(activations, cosines)
        if cosines.shape[1] < len(WORDS):
            return found
        # With all concepts there, the best of them is passed over.
        best = found.argmax(axis=1)
        found[np.arange(len(found)), best] = -np.inf
        return found

    rows, _ = dissect_planted(tmp_path, "my-rank", {})
    assert not all(row["stable_concepts"] for row in rows[:5])


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda a, c: np.zeros((2, 2)), r"'my-own' returned float64 of shape \(2, 2\), not"),
        (lambda a, c: np.full((a.shape[1], c.shape[1]), np.nan), "values that are not numbers"),
    ],
)
def test_a_similarity_that_returns_something_else_is_named(forgetting, give, said):
    registry.similarity("my-own")(give)
    with pytest.raises(ConsilienceError, match=said):
        similarity.SIMILARITIES["my-own"](np.ones((4, 3)), np.ones((4, 5)))


def peak_map(row, column):
    values = np.zeros((12, 16))
    values[row, column] = 1
    return values


def test_the_page_s_measure_of_agreement_is_compared_with_floors_and_ceiling(loaded):
    settings = {"metrics": ["spearman", "peak-distance"], "draws": 2}
    maps = {"grad-cam": peak_map(0, 0), "score-cam": peak_map(3, 4)}
    rows = agreement.compare_explanations(maps, settings | {"draws": 2})
    found = {row["metric"]: row["value"] for row in rows}
    assert found["peak-distance"] == pytest.approx(5 / 20)
    explanations = {("a", 0): maps, ("b", 0): {name: maps[name][::-1] for name in maps}}
    pictures = [{"name": name, "base": None, "clutter": 0, "weight": None} for name in "ab"]
    view = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    batch = controls.Batch(explanations, pictures, settings)
    about = {"model": "m", "target_index": 0, "target_class": "x"}
    rows = [
        about | {"picture": name} | row for name in "ab" for row in batch.compare(name, 0, view)
    ]
    tables.make_table(rows, tables.AGREEMENT)
    summary = agreement.summarise_agreement(rows, pictures, 200)
    (row,) = (row for row in summary if row["metric"] == "peak-distance")
    assert row["ceiling"] == 0  # no distance at all
    floors = {name: row[name.replace("-", "_")] for name in agreement.FLOORS}
    floors = {name: value for name, value in floors.items() if value is not None}
    assert len(floors) > 1
    assert row["floor"] == min(floors, key=floors.get)  # of distances the lowest


def test_a_measure_of_agreement_without_a_value_has_a_reason(forgetting):
    registry.agreement("my-none")(lambda a, b: None)
    registry.agreement("my-nan", over="superpixels")(lambda a, b: np.nan)

    @registry.agreement("my-reason", chance=0.5)
    def refuse(a, b):
        raise UndefinedError("because")

    lime = Superpixels(np.arange(192).reshape(12, 16) // 48, [1.0, 2, 3, 5])
    maps = {"grad-cam": peak_map(0, 0), "lime": lime}
    rows = agreement.compare_explanations(maps, {"metrics": ["my-none", "my-nan", "my-reason"]})
    assert [(row["value"], row["reason"]) for row in rows] == [
        (None, "the measure of agreement 'my-none' has no value here"),
        (None, "the measure of agreement 'my-nan' is nan"),
        (None, "because"),
    ]


def test_a_measure_of_agreement_must_not_depend_on_the_order(forgetting):
    registry.agreement("my-order")(lambda a, b: float(a.argmax()))
    maps = {"grad-cam": peak_map(0, 0), "score-cam": peak_map(3, 4)}
    with pytest.raises(ConsilienceError, match="must not depend on the order"):
        agreement.compare_explanations(maps, {"metrics": ["my-order"]})
    registry.agreement("my-text")(lambda a, b: "much")
    with pytest.raises(ConsilienceError, match="returned a str, not a number"):
        agreement.compare_explanations(maps, {"metrics": ["my-text"]})


def test_a_class_is_a_measure_of_agreement(forgetting):
    @registry.agreement("my-pearson")
    class Again(agreement.Pearson):
        pass

    maps = {"grad-cam": peak_map(0, 0), "score-cam": np.arange(192.0).reshape(12, 16)}
    rows = agreement.compare_explanations(maps, {"metrics": ["pearson", "my-pearson"]})
    assert rows[0]["value"] == rows[1]["value"]
    assert rows[1]["chance"] == 0


def test_the_page_s_measure_of_faithfulness_is_held_against_random_orders(loaded, net, views):
    heatmap = np.random.default_rng(1).random((24, 24))
    settings = {"steps": 2, "road": [0.5], "orders": 3, "batch_size": 2}
    settings["extra"] = ["comprehensiveness"]
    explanations = {1: {"grad-cam": heatmap, "eigen-cam": np.ones((24, 24))}}
    rows = faithfulness.measure_picture(net, views[0], explanations, settings)
    found = {row["method"]: row for row in rows if row["metric"] == "comprehensiveness"}
    picture = net.transform.normalize(views[:1]).numpy()[0]
    mean = picture.mean(axis=(1, 2), keepdims=True)
    removed = faithfulness.rank_pixels(heatmap.ravel()).reshape(24, 24) < 24 * 24 / 5
    asked = torch.from_numpy(np.stack([picture, np.where(removed, mean, picture)]))
    with torch.no_grad():
        before, after = torch.softmax(net.model(asked), dim=1)[:, 1].tolist()
    row = found["grad-cam"]
    assert row["value"] == pytest.approx(before - after, abs=1e-6)
    assert row["difference"] == pytest.approx(row["value"] - row["random"])
    assert row["fill"] == "mean"
    assert found["eigen-cam"]["reason"] == "constant map"
    # Ours come out as they would alone.
    alone = faithfulness.measure_picture(net, views[0], explanations, settings | {"extra": []})
    assert [row for row in rows if row["metric"] != "comprehensiveness"] == alone
    about = {"model": "m", "picture": "a", "target_class": "b"}
    rows = tables.make_table([about | row for row in rows], tables.FAITHFULNESS).to_pylist()
    pictures = [{"name": "a", "clutter": None, "weight": None}]
    summary = faithfulness.summarise_faithfulness(rows, pictures, 100)
    assert "comprehensiveness" in {row["metric"] for row in summary}


def test_a_measure_of_faithfulness_without_a_value_has_a_reason(forgetting, net, views):
    @registry.faithfulness("my-lower", higher_is_better=False)
    def count(picture, values, ranks, ask):
        return float(values[ranks == 0].sum())

    @registry.faithfulness("my-own")
    def refuse(picture, values, ranks, ask):
        if ranks[0, 0] != 0:
            raise UndefinedError("another pixel comes first")
        return 1

    heatmap = peak_map(0, 0)[:12, :12].repeat(2, 0).repeat(2, 1)
    heatmap[0, 0] = 2
    chosen = {"steps": 2, "road": [0.5], "extra": ["my-lower", "my-own"]}
    rows = faithfulness.measure_picture(net, views[0], {0: {"grad-cam": heatmap}}, chosen)
    lower, own = rows[-2:]
    assert (lower["value"], lower["random"], lower["difference"]) == (2, 2, 0)
    assert own["reason"] == "a random order: another pixel comes first"
    with pytest.raises(ConsilienceError, match="'deletion' is no measure that a file of"):
        faithfulness.measure_picture(net, views[0], {}, {"extra": ["deletion"]})
    registry.faithfulness("my-shape")(lambda picture, values, ranks, ask: ask(picture)[0])
    with pytest.raises(ConsilienceError, match=r"must be of shape \(n, 3, 24, 24\)"):
        faithfulness.measure_picture(
            net, views[0], {0: {"grad-cam": heatmap}}, {"extra": ["my-shape"]}
        )


def test_the_page_s_measure_against_a_mask_is_scored(loaded):
    mask = np.zeros((4, 4), np.uint8)
    mask[:2] = 255
    explanation = np.where(mask, 3.0, 1.0)
    explanation[0, 0] = 2
    rows = localization.score_localization(explanation, mask, ["contrast"])
    assert rows[-1] == {
        "metric": "contrast",
        "value": pytest.approx((23 / 8 - 1) / 2),
        "chance": 0,
        "area": 0.5,
        "reason": None,
    }
    assert [row["metric"] for row in rows[:-1]] == [
        row["metric"] for row in localization.score_localization(explanation, mask)
    ]
    (empty,) = localization.score_localization(explanation, 0 * mask, ["contrast"])[-1:]
    assert empty["reason"] == "empty mask"


def test_a_measure_against_a_mask_without_a_value_has_a_reason(forgetting):
    registry.localization("my-own")(lambda values, inside: np.inf)
    mask = np.eye(4)
    (row,) = localization.score_localization(1 - mask, mask, ["my-own"])[-1:]
    assert (row["value"], row["chance"]) == (None, None)
    assert row["reason"] == "the measure of localisation 'my-own' is inf"
