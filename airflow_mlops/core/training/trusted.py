"""
Which types a stored estimator may hold: numbers and plain classes of the libraries it is made with.

skops stores names of types, and builds them anew. One rule says which names are safe to build, so
that what a library adds needs no list here: a class has to be defined in a library of estimators,
and a function, which is called when the estimator answers, in a package of theirs that computes.
What only says to be there, such as a name that a module has imported from elsewhere, is not.
"""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

CLASSES = (
    "sklearn",
    "xgboost",
    "lightgbm",
    "scipy.interpolate",
    "scipy.sparse",
    "scipy.stats",
    "numpy.random",
)
"""Packages whose classes are safe to build."""

OTHERS = ("sklearn.datasets", "sklearn.externals", "sklearn.utils._testing")
"""Packages below them that read files, or hold what is somebody else's."""

SINGLE = (
    "builtins.object",
    "collections.OrderedDict",
    "collections.defaultdict",
    "functools.partial",
    "numpy.dtype",
)
"""Classes that are safe, though not all of their package is; what they hold has a name, too."""

COMPUTING = ("sklearn.metrics", "sklearn.utils.validation", "scipy._lib.array_api_compat")
"""Packages without estimators whose functions only compute."""

REDUCTIONS = ("mean", "median", "min", "max", "amin", "amax", "sum", "std", "var", "prod", "ptp")
"""Functions of numpy that estimators take as parameters; ufuncs are safe by what they are."""


def is_safe(name: str) -> bool:
    """
    Say whether building a type, or calling a function, of this name runs no code but a library's.

    :param name: as skops names it, such as ``sklearn.neighbors._kd_tree.KDTree64``.
    """
    if name in SINGLE:
        return True
    module, _, attribute = name.rpartition(".")
    found = _found(module, attribute)
    if found is None or _below(module, OTHERS):
        return False
    if inspect.isclass(found):
        return _below(module, CLASSES) and _below(found.__module__, CLASSES)
    return _computes(found, module, attribute)


def _computes(found: Any, module: str, attribute: str) -> bool:
    """Say whether a function only computes."""
    if module == "numpy":
        return type(found).__name__ == "ufunc" or attribute in REDUCTIONS
    if getattr(found, "__module__", None) != module or not callable(found):
        return False  # it is somebody else's, and only imported there
    return _below(module, (*COMPUTING, *_packages()))


def _found(module: str, attribute: str) -> Any:
    """Return what is called so; ``None``: nothing, or not where a library of estimators is."""
    roots = {name.partition(".")[0] for name in CLASSES}
    if module.partition(".")[0] not in roots:
        return None
    try:
        return getattr(import_module(module), attribute, None)
    except ImportError:
        return None


def _below(module: str, packages: Any) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in packages)


@cache
def _packages() -> tuple[str, ...]:
    """Return the packages of scikit-learn that have estimators: what else is there is no maths."""
    return tuple(sorted({*_estimator_packages()}))


def _estimator_packages() -> Iterator[str]:
    from sklearn.utils import all_estimators

    for _, kind in all_estimators():
        yield ".".join(kind.__module__.split(".")[:2])
