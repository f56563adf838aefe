"""What tests share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs and weights; the test skips where it is absent."""
    folder = os.environ.get("CONSILIENCE_REAL_DATA")
    if not folder:
        pytest.skip("CONSILIENCE_REAL_DATA names no folder of real photographs and weights")
    if not Path(folder, "photos").is_dir():
        pytest.skip(f"CONSILIENCE_REAL_DATA: {folder} has no photos/")
    return Path(folder).resolve()


# Files that take minutes, the longest first.
LONGEST = ("test_workflow.py", "test_slurm.py")


def pytest_collection_modifyitems(items):
    """Files that run the real workflow begin: at the end, one alone would keep one process busy."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path not in slow, ranks.get(item.path.name, len(ranks))))
