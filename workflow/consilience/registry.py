"""Methods and measures by name: the library's own, and those that a file of the user's registers.

A file that the study names in ``extensions`` decorates what it adds::

    from consilience import registry

    @registry.localization("centre-distance")
    def measure(values, inside):
        ...

and the name then stands in the study like any other (docs/extending.md has one of each kind).

Nothing is imported here that the five kinds need. What was registered waits until the module of
its kind is imported, so that a step which only compares explanations can load a file that registers
a CAM as well.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import ConsilienceError

KINDS = {
    "cam": "CAM method",
    "similarity": "similarity",
    "agreement": "measure of agreement",
    "faithfulness": "measure of faithfulness",
    "localization": "measure of localisation",
}
"""What can be registered, and what messages call it; the module of that name has its registry."""

NAME = re.compile(r"[a-z0-9][a-z0-9+.]*(-[a-z0-9+.]+)*")
"""What a name may be: it becomes part of file names and stands in tables."""

_registered: dict[str, dict[str, tuple[Any, dict]]] = {kind: {} for kind in KINDS}
_registries: dict[str, Registry] = {}


class Registry(dict):
    """Everything of one kind by name, in the form that its module works with.

    Parameters
    ----------
    kind
        A key of :data:`KINDS`.
    ours
        The library's own.
    adapt
        Takes a name, what the user's code decorated and the decorator's options, and returns what
        the module works with. Raises :class:`ConsilienceError` where it does not suit.
    """

    def __init__(self, kind: str, ours: Mapping[str, Any], adapt: Callable[..., Any]):
        super().__init__(ours)
        self.kind, self.ours, self._adapt = kind, frozenset(ours), adapt
        _registries[kind] = self
        for name, (thing, options) in _registered[kind].items():
            self.add(name, thing, options)

    def add(self, name: str, thing: Any, options: Mapping) -> None:
        """Take in what the user's code registered.

        Raises
        ------
        ConsilienceError
            If the name is one of the library's own, or the thing does not suit.
        """
        if name in self.ours:
            raise ConsilienceError(
                f"the {KINDS[self.kind]} {name!r} is one of Consilience's own; choose another name"
            )
        try:
            self[name] = self._adapt(name, thing, **options)
        except ConsilienceError as error:
            what = f"the {KINDS[self.kind]} {name!r} ({_origin(thing)})"
            raise ConsilienceError(f"{what}: {error}") from None


def is_registered(kind: str, name: str) -> bool:
    """Say whether the user's code has registered a name."""
    return name in _registered[kind]


def forget(kind: str, name: str) -> None:
    """Take back what the user's code registered; what was never registered is passed over."""
    if _registered[kind].pop(name, None) and kind in _registries:
        _registries[kind].pop(name, None)


def _register(kind: str, name: str, options: dict) -> Callable[[Any], Any]:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConsilienceError(
            f"registry.{kind}({name!r}): a name has small letters, digits, dots and plus signs, "
            "with single hyphens between them"
        )

    def register(thing: Any) -> Any:
        known = _registered[kind].get(name)
        # The same file may be loaded twice.
        if known and _origin(known[0]) != _origin(thing):
            raise ConsilienceError(
                f"the {KINDS[kind]} {name!r} is registered twice, by {_origin(known[0])} and "
                f"{_origin(thing)}; rename one"
            )
        if kind in _registries:
            _registries[kind].add(name, thing, options)
        _registered[kind][name] = thing, options
        return thing

    return register


def _origin(thing: Any) -> str:
    where = getattr(thing, "__module__", "?"), getattr(thing, "__qualname__", repr(thing))
    return ".".join(where)


def cam(name: str) -> Callable[[Any], Any]:
    """Register a CAM method.

    Decorates one of

    - a function ``(activations, gradients)`` or ``(activations)`` of NumPy arrays, float32, each of
      shape (n, channels, height, width): what the layer gives for n pictures, and what the target's
      logit has for a gradient there. It returns n maps, shape (n, height, width), not rectified; a
      picture's map must not depend on the others.
    - a class of pytorch-grad-cam's making, derived from its ``BaseCAM`` or one of its methods, with
      the constructor ``(model, target_layers, reshape_transform)``. It is given many pictures at a
      time unless it says ``takes_batches = False``.

    What follows, rectifying, upsampling and scaling to [0, 1], is as for every method.
    """
    return _register("cam", name, {})


def similarity(name: str) -> Callable[[Any], Any]:
    """Register a similarity of neurons and concepts.

    Decorates a function ``(activations, cosines, *, setting=default, …)`` of

    - ``activations``: float, shape (pictures, neurons), each neuron's pooled activation;
    - ``cosines``: float, shape (pictures, concepts), of the CLIP embeddings;

    that returns float, shape (neurons, concepts): the larger, the better the match; minus infinity
    where a concept cannot label a neuron. Its settings are keyword-only, and stand in the study
    under the similarity's own name. It sees all probe pictures at once.
    """
    return _register("similarity", name, {})


def agreement(
    name: str,
    *,
    higher_agrees: bool = True,
    over: str = "pixels",
    chance: float | None = None,
) -> Callable[[Any], Any]:
    """Register a measure between two explanations of a picture.

    Decorates a function ``(a, b)`` that returns a number, the same for ``(b, a)``; or a class
    derived from :class:`consilience.agreement.Measure`, which says the rest of this by itself.
    A function that has no value for two explanations returns None, or raises
    :class:`consilience.measures.UndefinedError` with the reason.

    Parameters
    ----------
    name
        In ``agreement.metrics`` of the study.
    higher_agrees
        False for distances.
    over
        ``pixels``: a and b are maps, float64, shape (height, width). ``superpixels``: vectors over
        LIME's superpixels, shape (n,), of a CAM its sum in each. ``signed superpixels``: the same
        of CAMs that are not rectified. No map is constant, and every value is finite.
    chance
        What unrelated explanations score on average, where that is known by definition alone.
    """
    return _register("agreement", name, {"higher": higher_agrees, "over": over, "chance": chance})


def faithfulness(
    name: str, *, higher_is_better: bool = True, fill: str = "own"
) -> Callable[[Any], Any]:
    """Register a measure of how faithful an explanation is to the model.

    Decorates a function ``(picture, values, ranks, ask)`` that returns a number, of

    - ``picture``: what the model takes, normalised, float32, shape (channels, height, width);
    - ``values``: the explanation, float64, shape (height, width), not constant;
    - ``ranks``: each pixel's place from the most relevant, 0, to the least, with ties broken as for
      every measure of faithfulness: integers, shape (height, width);
    - ``ask``: takes pictures like the first, shape (n, channels, height, width), and returns the
      model's probability of the explained class, float64, shape (n,).

    It is called for the explanation and for each random order, which has the explanation's own
    values at other places. It returns None, or raises
    :class:`consilience.measures.UndefinedError` with the reason, where it has no value.

    Parameters
    ----------
    name
        In ``faithfulness.extra`` of the study.
    higher_is_better
        Whether a higher value is a more faithful explanation.
    fill
        What the table says of what replaces pixels.
    """
    return _register("faithfulness", name, {"higher": higher_is_better, "fill": fill})


def localization(
    name: str, *, chance: Callable[[float], float] | None = None
) -> Callable[[Any], Any]:
    """Register a measure of an explanation against a mask.

    Decorates a function ``(values, inside)`` that returns a number, of

    - ``values``: the explanation, float64, shape (height, width), not constant;
    - ``inside``: bool, shape (height, width), somewhere True and somewhere False.

    It returns None, or raises :class:`consilience.measures.UndefinedError` with the reason, where
    it has no value.

    Parameters
    ----------
    name
        In ``localization.extra`` of the study.
    chance
        Takes the mask's share of the area and returns what a map without regard to the mask scores
        on average; None where that is not known.
    """
    return _register("localization", name, {"chance": chance})


def require_parameters(thing: Any, *choices: tuple[str, ...]) -> int:
    """Hold a function's positional parameters against what it will be called with.

    Returns
    -------
    int
        How many it takes.

    Raises
    ------
    ConsilienceError
        If it is no function, or takes none of them.
    """
    wanted = " or ".join(f"({', '.join(names)})" for names in choices)
    if isinstance(thing, type) or not callable(thing):
        raise ConsilienceError(f"is a {type(thing).__name__}; decorate a function of {wanted}")
    parameters = inspect.signature(thing).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    count = sum(parameter.kind in kinds for parameter in parameters)
    if count not in map(len, choices):
        raise ConsilienceError(f"its function must take {wanted}, not {count} arguments")
    return count


def protect(array: Any) -> Any:
    """Return a view of an array that the user's code cannot write to: others read it too."""
    view = array.view()
    view.flags.writeable = False
    return view


def require_number(value: Any, what: str) -> float:
    """Return what a user's measure gave as a float.

    Raises
    ------
    UndefinedError
        If it is None or not finite: there is no value here.
    ConsilienceError
        If it is no number.
    """
    from .measures import UndefinedError

    if value is None:
        raise UndefinedError(f"{what} has no value here")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ConsilienceError(
            f"{what} returned a {type(value).__name__}, not a number; return one, or None where "
            "there is no value"
        ) from None
    if number - number != 0:  # infinite, or not a number
        raise UndefinedError(f"{what} is {number}")
    return number


# ------------------------------------------------------------------------------------------------
# The user's files


def module_of(path: str) -> str:
    """Return the module that a file of the user's is imported as, of its path."""
    return ".".join(Path(path).with_suffix("").parts)


def load(selected: Iterable[Mapping], folder: str | Path | None = None) -> None:
    """Run files of the user's, so that what they register can be used.

    Parameters
    ----------
    selected
        As :func:`consilience.extensions.select` gives it.
    folder
        The directory that Snakemake runs in; by default the working directory.

    Raises
    ------
    ConsilienceError
        If a file fails, or does not register what it should.
    """
    here = str(Path(folder or Path.cwd()).resolve())
    for file in selected:
        path, module = file["path"], module_of(file["path"])
        sys.path.insert(0, here)
        importlib.invalidate_caches()
        try:
            loaded = importlib.import_module(module)
        except ConsilienceError as error:
            raise ConsilienceError(f"extensions: {path}: {error}") from None
        except Exception as error:  # whatever the user's code raises
            raise ConsilienceError(
                f"extensions: {_place(error, Path(here, path), path)}: cannot be imported "
                f"({_reason(error)})"
            ) from error
        finally:
            sys.path.remove(here)
        if here not in sys.path:  # for what its functions import later; after all else
            sys.path.append(here)
        if Path(loaded.__file__ or "").resolve() != Path(here, path).resolve():
            raise ConsilienceError(
                f"extensions: {path} cannot be imported, as {module!r} is the module "
                f"{loaded.__file__}; give the file another name"
            )
        for kind, name in file["registers"]:
            if not is_registered(kind, name):
                raise ConsilienceError(
                    f"extensions: {path} does not register the {KINDS[kind]} {name!r} when it runs"
                )


def _place(error: Exception, file: Path, path: str) -> str:
    """Say where in a file an exception came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file]
    return f"{path}, line {lines[-1]}" if lines else path


def _reason(error: Exception) -> str:
    """Say an exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def check(selected: Iterable[Mapping]) -> None:
    """Load files of the user's, and hold each thing that they register against its kind.

    Raises
    ------
    ConsilienceError
        As :func:`load` does, and where something does not suit.
    """
    selected = list(selected)
    load(selected)
    for kind in sorted({kind for file in selected for kind, _ in file["registers"]}):
        # By name, so that the digest of the check does not hold all that CAMs and the rest import.
        importlib.import_module(f".{kind}", __package__)
