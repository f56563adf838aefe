import weakref

import numpy as np
import pytest
import torch
from PIL import Image

from consilience import clip_encoder, clip_training
from consilience.errors import ConsilienceError


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "weights.pt"
    clip_training.save_clip(clip_training.build_small_clip(0), path)
    return clip_encoder.load_clip(path)


def test_embeddings_have_length_one_whatever_the_batch(encoder):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (h, w, 3)).astype(np.uint8) for h, w in ((96, 96), (40, 70))]
    pictures.append(Image.new("L", (30, 30), 90))
    vectors = encoder.embed_pictures(pictures)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encoder.embed_pictures(pictures, batch=1), vectors, atol=1e-5)


def test_loading_warns_of_nothing_that_is_known(tmp_path, recwarn):
    clip_training.save_clip(clip_training.build_small_clip(0), tmp_path / "weights.pt")
    clip_encoder.load_clip(tmp_path / "weights.pt")
    assert [str(warning.message) for warning in recwarn] == []


def test_texts_are_those_of_the_package(encoder):
    import clip

    words = ["ball", "a red ball on grass"]
    with torch.inference_mode():
        expected = encoder.model.encode_text(clip.tokenize(words))
    expected = expected / expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(encoder.embed_texts(words), expected, atol=1e-6)


def test_templates_are_averaged(encoder):
    one, two = (encoder.embed_texts(["ball"], [template]) for template in ("{}", "a photo of {}"))
    mean = (one + two) / np.linalg.norm(one + two)
    both = encoder.embed_texts(["ball"], ["{}", "a photo of {}"])
    np.testing.assert_allclose(both, mean, atol=1e-6)
    with pytest.raises(ConsilienceError, match="must hold"):
        encoder.embed_texts(["ball"], ["a photo"])


def test_nothing_embeds_to_nothing(encoder):
    assert encoder.embed_pictures([]).shape == (0, 128)
    assert encoder.embed_texts([]).shape == (0, 128)


def test_an_extreme_picture_is_cut_before_it_is_resized(encoder, monkeypatch):
    """Whole it would have more pixels than there is memory; and it is embedded like any other."""
    assert encoder.embed_pictures([np.zeros((1, 100_000, 3), np.uint8)]).shape == (1, 128)
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    long = np.broadcast_to(ramp[None, :, None], (20, 200, 3))
    expected = encoder.embed_pictures([long])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    np.testing.assert_allclose(encoder.embed_pictures([long]), expected, atol=5e-3)


def test_pictures_are_let_go_of_one_by_one(encoder):
    kept = []

    def pictures():
        for shade in range(5):
            picture = Image.new("RGB", (9, 9), (shade, 0, 0))
            kept.append(weakref.ref(picture))
            yield picture
            del picture
            assert sum(one() is not None for one in kept) <= 1

    assert encoder.embed_pictures(pictures(), batch=2).shape == (5, 128)


def test_a_text_that_is_too_long_is_named(encoder):
    with pytest.raises(ConsilienceError, match=r"text 'very very .*longer than the 77 tokens"):
        encoder.embed_texts(["ball", "very " * 100])


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_file_that_is_no_clip_is_an_error(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ConsilienceError, match=r"weights.pt'.*(not a CLIP|cannot be read)"):
        clip_encoder.load_clip(path)


def test_a_name_that_is_neither_file_nor_model_is_an_error():
    with pytest.raises(ConsilienceError, match=r"'ViT-B/61'.*did you mean 'ViT-B/16'"):
        clip_encoder.load_clip("ViT-B/61")
