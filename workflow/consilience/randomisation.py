"""Weights drawn anew, module by module from the logits down: the cascade of Adebayo et al. (2018).

"Sanity Checks for Saliency Maps", https://arxiv.org/abs/1810.03292. An explanation that does not
change with the weights cannot tell what the model learned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from .classifiers import Classifier
from .errors import ConsilienceError

LARGEST = 0.9
"""Share of a model's parameters that a module may hold and still be one stage by default."""

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def find_stages(
    classifier: Classifier, names: Sequence[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the stages of a cascade, in the order in which their weights are randomised.

    Parameters
    ----------
    classifier
        The model; weights are not looked at.
    names
        Modules, a stage each. By default the model's own children that have parameters, from the
        last to the first as the model registers them, but for these:

        - a child with more than :data:`LARGEST` of all parameters gives way to its own children,
          and so on (a transformer's ``encoder`` to its blocks);
        - a norm belongs to the stage of what is registered before it, which it follows (``bn1``
          of a ResNet to ``conv1``);
        - what lies beside the children (a vision transformer's class token and positions) belongs
          to the last stage, after which nothing is left of the training.

    Returns
    -------
    dict
        By name of the stage, the modules whose own parameters it draws, in the model's order.

    Raises
    ------
    ConsilienceError
        If there is no such module, it has no parameters, or those that it has belong to stages
        before it; if the model has no parameters at all.
    """
    model = classifier.model
    if names is None:
        return _default_stages(classifier)
    stages: dict[str, tuple[str, ...]] = {}
    for name in names:
        try:
            module = classifier.layer(name)
        except ConsilienceError as error:
            raise ConsilienceError(f"sanity.stages: {error}") from None
        where = f"sanity.stages: {name!r} of model {classifier.name!r}"
        if not _parameters(module):
            raise ConsilienceError(f"{where} has no weights to randomise; leave it out")
        before = {own for stage in stages for own in _parameters(model.get_submodule(stage))}
        if before >= _parameters(module).keys():
            raise ConsilienceError(
                f"{where} is random already when its turn comes; name it before what holds it, or "
                "leave it out"
            )
        stages[name] = _below(model, name)
    return stages


def _default_stages(classifier: Classifier) -> dict[str, tuple[str, ...]]:
    model = classifier.model
    total = sum(_parameters(model).values())
    if not total:
        raise ConsilienceError(
            f"model {classifier.name!r} has no weights to randomise; set acts.sanity to false"
        )
    # Modules that give way to their children, and the children.
    around, children = [""], _children(model, "")
    while large := [
        name
        for name in children
        if sum(_parameters(model.get_submodule(name)).values()) > LARGEST * total
        and _children(model, name)
    ]:
        at = children.index(large[0])
        children[at : at + 1] = _children(model, large[0])
        around.append(large[0])
    stages: dict[str, tuple[str, ...]] = {}
    seen: set[int] = set()
    norms: tuple[str, ...] = ()
    for at, name in reversed([*enumerate(children)]):
        module = model.get_submodule(name)
        own = set(_parameters(module))
        # Another name for modules that have had their turn.
        if own <= seen:
            continue
        seen |= own
        if isinstance(module, _NORMS) and at:
            norms = (name, *norms)
            continue
        stages[name] = (*_below(model, name), *norms)
        norms = ()
    beside = tuple(name for name in around if _own(model.get_submodule(name)))
    if not stages:  # no children with parameters: the model itself
        return {type(model).__name__: beside}
    last = next(reversed(stages))
    stages[last] = (*beside, *stages[last], *norms)
    return stages


def _own(module: nn.Module) -> list[torch.Tensor]:
    """Return what of the training lies in a module itself: parameters, a batch norm's means."""
    means = [module.running_mean] if _has_statistics(module) else []
    return [*module.parameters(recurse=False), *means]


def _has_statistics(module: nn.Module) -> bool:
    kinds = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
    return isinstance(module, kinds) and module.running_mean is not None


def _parameters(module: nn.Module) -> dict[int, int]:
    """Return how many numbers each tensor has that lies in a module or below, by identity."""
    return {id(tensor): tensor.numel() for inner in module.modules() for tensor in _own(inner)}


def _children(model: nn.Module, name: str) -> list[str]:
    """Return the full names of a module's children that were trained, as registered."""
    prefix = f"{name}." if name else ""
    found = model.get_submodule(name).named_children()
    return [f"{prefix}{child}" for child, module in found if _parameters(module)]


def _below(model: nn.Module, name: str) -> tuple[str, ...]:
    """Return the names of a module and of those in it that were trained themselves."""
    found = model.get_submodule(name).named_modules(prefix=name)
    return tuple(inner for inner, module in found if _own(module))


def derive_seed(*parts: int | str) -> int:
    """Return a whole number below 2**63 that hangs on every part: a seed and names."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def randomise(model: nn.Module, modules: Iterable[str], *seed: int | str) -> None:
    """Draw the weights of modules anew, in place.

    Convolutions and linear layers as He et al. (2015, https://arxiv.org/abs/1502.01852) draw them,
    with biases of zero: what ``reset_parameters`` draws is smaller, and in a network without norms
    nothing of the picture would reach the logits (none did in SqueezeNet). Other modules as
    PyTorch builds them (``reset_parameters``): a norm gets the factor 1 and the shift 0. What
    that does not reach, such as a class token that lies in a module around others, is permuted.

    Parameters
    ----------
    model
        Not yet made ready (:func:`consilience.inference.prepare`), which folds weights away.
    modules
        Names of modules; those in them are left as they are unless named too.
    seed
        A seed and names that the draws depend on beside the module's own name: a module gets the
        same weights whatever else is drawn and wherever the model lies, and PyTorch's own generator
        is left as it is.
    """
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for name in modules:
            module = model.get_submodule(name).to("cpu")
            torch.manual_seed(derive_seed(*seed, name))
            _redraw(module)
            module.to(device)


def _redraw(module: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in module.named_parameters(recurse=False)}
    reset = getattr(module, "reset_parameters", None)
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif callable(reset) and not any(True for _ in module.children()):
        reset()
    for name, tensor in module.named_parameters(recurse=False):
        if torch.equal(tensor, before[name]):
            order = torch.randperm(tensor.numel())
            tensor.copy_(tensor.flatten()[order].view_as(tensor))


def settle_norms(model: nn.Module, modules: Iterable[str], pictures: torch.Tensor) -> None:
    """Let batch norms take their statistics from pictures, in place, in one pass.

    The trained statistics belong to the trained weights beneath a norm: over random ones they push
    whole channels below zero. Without any, activations double from block to block of a residual
    network, until the probabilities are 0 and 1.

    Parameters
    ----------
    model
        In evaluation mode, in which it stays.
    modules
        Names of modules; what is no batch norm is passed over.
    pictures
        As the model takes them, at least two, shape (n, 3, height, width).
    """
    norms = [module for name in modules if _has_statistics(module := model.get_submodule(name))]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        if norms:
            with torch.no_grad():
                model(pictures)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
