"""Packages that are hardly used are imported when they are, and are otherwise what they were."""

import os
import subprocess
import sys

from conftest import REPOSITORY

BEGIN = """
import sys
from consilience import {module}
heavy = ("matplotlib", "pandas", "scipy.stats", "sklearn")
assert not [name for name in heavy if name in sys.modules]
"""
CAMS = """
import pytorch_grad_cam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.base_cam import BaseCAM
assert issubclass(cam.METHODS["grad-cam"], GradCAM)
assert issubclass(cam.METHODS["kpca-cam"], pytorch_grad_cam.KPCA_CAM)
assert issubclass(GradCAM, BaseCAM)
import matplotlib, sklearn
from sklearn import linear_model
assert sklearn.__file__ and matplotlib.__file__ and linear_model.__file__
assert not [name for name, one in sys.modules.items() if type(one).__module__.endswith("deferred")]
assert not [one for one in sys.meta_path if type(one).__module__.endswith("deferred")]
import numpy as np
from pytorch_grad_cam.utils import svd_on_activations
maps = np.random.default_rng(0).random((1, 4, 3, 3), np.float32)
found = svd_on_activations.get_2d_projection_kernel(maps)
from sklearn.decomposition import KernelPCA
centred = maps[0].reshape(4, -1).T
centred = centred - centred.mean(axis=0)
wanted = KernelPCA(n_components=1, kernel="sigmoid").fit_transform(centred)
assert np.array_equal(found[0], np.float32(wanted.reshape(3, 3)))
from pytorch_grad_cam.feature_factorization import deep_feature_factorization
concepts, explanations = deep_feature_factorization.dff(maps, n_components=2)
assert concepts.shape == (4, 2) and explanations.shape == (1, 2, 3, 3)
from pytorch_grad_cam.utils import image
assert image.plt.rcParams["figure.dpi"] > 0
from matplotlib import pyplot
assert image.plt.close.__code__ is pyplot.close.__code__
assert isinstance(image.Line2D([0], [0]), pyplot.Line2D)
"""
LIME = """
import lime.lime_image
import numpy as np
lime_image.outline(np.zeros((8, 8, 3), np.uint8), np.arange(64).reshape(8, 8) // 32, [1.0, 0.0], 1)
assert "sklearn" not in sys.modules
explainer = lime.lime_image.LimeImageExplainer(random_state=0)
view = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
def ask(pictures):
    return np.stack([pictures.mean((1, 2, 3)), 255 - pictures.mean((1, 2, 3))], axis=1) / 255
halves = np.arange(64).reshape(8, 8) // 32
found = explainer.explain_instance(
    view, ask, (0,), num_samples=20, segmentation_fn=lambda _: halves
)
assert len(found.local_exp[0]) == 2
lime_image.check_distance("cosine")
"""


def run(code):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")}
    command = [sys.executable, "-W", "ignore", "-c", code + "print('fine')"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.stdout.endswith("fine\n"), run.stderr


def test_cams_are_imported_without_what_they_hardly_use_which_works_all_the_same():
    run(BEGIN.format(module="cam") + CAMS)


def test_pictures_are_drawn_without_what_lime_fits_with_which_works_all_the_same():
    run(BEGIN.format(module="lime_image") + LIME)


def test_what_is_there_already_is_not_deferred():
    run(
        "import sys, sklearn.decomposition, pytorch_grad_cam\n"
        "before = pytorch_grad_cam.GradCAM\n"
        "from consilience import cam\n"
        "assert issubclass(cam.METHODS['grad-cam'], before)\n"
        "from pytorch_grad_cam.utils import svd_on_activations as used\n"
        "assert used.KernelPCA is sklearn.decomposition.KernelPCA\n"
        "from consilience.deferred import deferring\n"
        "assert 'sklearn.neighbors' not in sys.modules\n"
        "with deferring('sklearn'):\n"
        "    from sklearn.neighbors import BallTree\n"
        "assert isinstance(BallTree, type)\n"
    )


def test_what_a_package_lacks_is_said_when_it_is_asked_for():
    run(
        "from consilience.deferred import deferring\n"
        "with deferring('wave'):\n"
        "    from wave import nothing\n"
        "    import wave as module\n"
        "for use in (nothing, lambda: module.nothing):\n"
        "    try:\n"
        "        use()\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert 'nothing' in str(error)\n"
        "    else:\n"
        "        raise AssertionError\n"
    )
