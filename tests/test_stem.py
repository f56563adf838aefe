"""First convolutions of mixtures of pictures, against convolving the mixtures."""

import logging

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from consilience import cam, stem
from consilience.inference import prepare
from test_cam import ask_library, image_of, wrap


def make_parts(groups, size, channels=3, seed=0):
    """Random pictures that are zero but in some rows, and one group that is zero everywhere."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for first, last, count in groups:
        pictures = torch.zeros(count, channels, *size)
        pictures[:, :, first:last] = torch.randn(
            count, channels, last - first, size[1], generator=generator
        )
        made.append(pictures)
    return [*made, torch.zeros(2, channels, *size)]


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
        {"kernel_size": 7, "stride": 2},
        {"kernel_size": 3},
        {"kernel_size": (5, 3), "stride": (3, 2), "padding": (4, 0), "dilation": (2, 1)},
        {"kernel_size": 3, "padding": 1, "groups": 3},
        {"kernel_size": 4, "stride": 5, "padding": 2},
    ],
)
@torch.inference_mode()
def test_a_mixtures_output_is_the_mixture_of_the_outputs(options):
    torch.manual_seed(1)
    size, convolution = (23, 19), nn.Conv2d(3, 6, **options)
    parts = make_parts([(0, 6, 3), (4, 12, 2), (11, 23, 4), (20, 21, 1)], size)
    shares = torch.randn(5, 12)
    mixtures = torch.einsum("np,pchw->nchw", shares, torch.cat(parts))
    expected = convolution(mixtures)
    found = stem.Stem(convolution, parts).convolve(shares)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert stem.convolution_size(convolution, size) == tuple(expected.shape[2:])


@torch.inference_mode()
def test_the_convolution_answers_for_mixtures_and_then_for_itself_again():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=5).eval().requires_grad_(False)
    prepare(model, ["layer4"])
    parts = make_parts([(0, 40, 2), (30, 64, 3)], (64, 64))
    shares = torch.rand(4, 7)
    mixtures = torch.einsum("np,pchw->nchw", shares, torch.cat(parts))
    expected, other = model(mixtures), torch.rand(4, 3, 64, 64)
    before = model(other)
    with stem.Stem(model.conv1, parts).answering(shares):
        # Its activation is asked of it, and done.
        torch.testing.assert_close(model(other), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(other), before)


class LooksTwice(nn.Module):
    """Its own code looks at the picture too, which no call shows."""

    def __init__(self, looks):
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.fc = nn.Linear(8, 5)
        self.looks = looks

    def forward(self, x):
        more = 10 * self.looks * x.mean((1, 2, 3))[:, None]
        return self.fc(self.conv2(self.conv1(x).relu()).relu().mean((2, 3))) + more * torch.arange(
            5
        )


class Halves(LooksTwice):
    def forward(self, x):
        return self.fc(self.conv2(self.conv1(x / 2).relu()).relu().mean((2, 3)))


class Both(LooksTwice):
    def __init__(self):
        super().__init__(0)
        self.beside = nn.Conv2d(3, 5, 7)

    def forward(self, x):
        return super().forward(x) + self.beside(x).mean((2, 3))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (torchvision.models.resnet18(num_classes=5), "conv1"),
        (torchvision.models.squeezenet1_0(num_classes=5), "features.0"),
        (torchvision.models.densenet121(num_classes=5), "features.conv0"),
        (torchvision.models.mobilenet_v2(num_classes=5), "features.0.0"),
        (LooksTwice(1), "conv1"),
        (Halves(0), None),
        (Both(), None),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 5)), None),
        (nn.Sequential(nn.Conv2d(3, 5, 7, padding_mode="reflect", padding=3)), None),
        (nn.Sequential(nn.Conv2d(3, 5, 7).to(torch.bfloat16)), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value),
)
def test_the_stem_is_what_alone_looks_at_the_picture(model, name):
    picture = torch.rand(1, 3, 64, 64).to(next(model.parameters()).dtype)
    found = stem.find_stem(model.eval(), picture)
    assert found is (model.get_submodule(name) if name else None)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_it_is_taken_where_it_saves_work():
    large, picture = nn.Conv2d(3, 8, 7), torch.rand(3, 64, 64)
    assert stem.is_worthwhile(large, picture, 73)
    assert not stem.is_worthwhile(large, picture, 74)  # 7 · 7 · 3 multiplications else
    assert not stem.is_worthwhile(large, torch.rand(3, 4000, 4000), 21)  # memory
    assert not stem.is_worthwhile(large, torch.rand(1, 64, 64), 21)
    assert not stem.is_worthwhile(nn.Conv2d(3, 8, 3), picture, 21)
    assert not stem.is_worthwhile(nn.Linear(3, 3), picture, 1)
    assert not stem.is_worthwhile(None, picture, 1)


@pytest.mark.parametrize("looks", [0, 1])
def test_score_cam_is_the_librarys_whatever_the_model_looks_at(looks, monkeypatch, caplog):
    classifier = wrap(LooksTwice(looks))
    view = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    view = np.stack([view, view[::-1]])
    answered = []
    convolve = stem.Stem.convolve
    monkeypatch.setattr(
        stem.Stem,
        "convolve",
        lambda self, shares: answered.append(len(shares)) or convolve(self, shares),
    )
    # Twelve columns of a map: 36 of 147 multiplications.
    pool = nn.AdaptiveAvgPool2d((12, 12))
    classifier.model.conv2 = nn.Sequential(classifier.model.conv2, pool)
    with caplog.at_level(logging.INFO):
        rows = cam.explain_cam(classifier, "score-cam", "conv2", view, [1, 2], batch_size=3)
    for row, one, target in zip(rows, view, (1, 2), strict=True):
        expected = ask_library(classifier, "score-cam", "conv2", one, target)
        np.testing.assert_allclose(image_of(row), expected, atol=1e-5)
    if looks:
        assert answered == [2]  # which proved it wrong, for both pictures
        assert "looks at its input beside its first convolution" in caplog.text
    else:
        assert sum(answered) == 2 + 2 * 8
        assert "looks at its input" not in caplog.text


def test_bumps_of_cells_make_up_a_mask():
    """What the parts of Score-CAM's masks rest on."""
    upsample = nn.UpsamplingBilinear2d(size=(17, 23))
    maps = torch.rand(4, 3, 5)
    cells = torch.eye(15).view(1, 15, 3, 5)
    mixed = torch.einsum("np,phw->nhw", maps.flatten(1), upsample(cells)[0])
    torch.testing.assert_close(mixed, upsample(maps[None])[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(upsample(cells)[0].sum(0), torch.ones(17, 23))
