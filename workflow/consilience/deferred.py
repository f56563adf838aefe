"""Packages that another package imports at once and hardly ever uses, imported when it does.

pytorch-grad-cam imports scikit-learn for one of its methods and Matplotlib for its figures; lime
imports scikit-learn to fit, which those who draw its superpixels do not. Each takes the better part
of a second, in every step.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Name:
    """What stands for a name out of a package: for a function, a class or a module."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def _find(self):
        module = import_module(self._module)
        if not hasattr(module, self._name):
            import_module(f"{self._module}.{self._name}")
        return getattr(module, self._name)

    def __getattr__(self, name: str):
        return getattr(self._find(), name)

    def __call__(self, *args, **kwargs):
        return self._find()(*args, **kwargs)


class _Module(ModuleType):
    """What stands for a module, empty while it is imported and as the real one afterwards."""

    def __getattr__(self, name: str):
        found = _Name(self.__name__, name)
        if not self.__loader__.at_work:
            return found._find()
        if name.startswith("__"):  # Python itself asks, while it imports
            raise AttributeError(name)
        return found


class _Finder(MetaPathFinder, Loader):
    """Finds something to stand for every module of some packages."""

    def __init__(self, packages: set[str]):
        self.packages, self.made, self.at_work = packages, [], True

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.packages:
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        self.made.append(spec.name)
        return _Module(spec.name)

    def exec_module(self, module):
        pass


@contextmanager
def deferring(*packages: str) -> Iterator[None]:
    """Let packages that are imported in this block be imported when they are first used.

    What the block imports may use them as soon as its own functions run: it may neither derive from
    their classes nor call them before. After the block an import gives everyone the real modules.
    A package that has been imported already is not deferred.
    """
    finder = _Finder({name for name in packages if name not in sys.modules})
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        finder.at_work = False
        sys.meta_path.remove(finder)
        for name in finder.made:
            sys.modules.pop(name, None)
