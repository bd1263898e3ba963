"""
Metrics by name: built in, or a function of the user, ``module:function``.

It is ``(y, p) -> losses``, one for each row, of which less is better; or one number for all rows,
of which an attribute ``greater_is_better`` of the function says whether more is better. ``p`` has a
column for each class where there are more than two.
"""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from airflow_mlops.core.data.features import archive
from airflow_mlops.core.errors import ConfigurationError, UserCodeError
from airflow_mlops.core.metrics import Floats, Metric, loss_function, named, read_only
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.functions import called
from airflow_mlops.policy import is_own


def load_metric(name: str) -> Metric:
    """
    Return a metric by name.

    :param name: a built-in metric, or ``module:function``.
    :raises ConfigurationError: if there is none of that name.
    :raises UserCodeError: if the module of the user fails to import, or lacks the function.
    """
    if not is_own(name):
        return named(name)
    function = load_function("metric", name)
    greater = getattr(function, "greater_is_better", False)
    if not isinstance(greater, bool):
        msg = f"metric {name}: greater_is_better is {greater!r}; write True or False"
        raise ConfigurationError(msg)
    return Metric(name, greater, own=_checked(name, function))


def load_loss(name: str) -> Metric:
    """
    Return a per-row loss by name; that of a user shows what it is when it is called.

    :param name: a built-in loss, or ``module:function``.
    :raises ConfigurationError: if there is none of that name.
    :raises UserCodeError: if the module of the user fails to import, or lacks the function.
    """
    return load_metric(name) if is_own(name) else loss_function(name)


def load_function(what: str, name: str) -> Callable[..., Any]:
    """
    Import a function of the user from its archived source, as training functions are.

    :param what: what it is for; errors name it.
    :param name: ``module:function``.
    :raises UserCodeError: if it is missing, or its module fails to import.
    """
    try:
        code = archive(name)
        with scratch_folder("code") as folder:
            code.save(folder)
            function = code.load(folder)
            for file in code.files:  # the folder goes, so nothing may be left to import
                stem = file.removesuffix(".py")
                if stem != "__init__":
                    importlib.import_module(f"{function.__module__}.{stem}")
    except (ConfigurationError, UserCodeError) as error:
        msg = f"{what} {error}"
        raise UserCodeError(msg) from error
    return function


def _checked(name: str, function: Callable[..., Any]) -> Callable[[Floats, Floats], Floats]:
    def measured(y: Floats, p: Floats) -> Floats:
        given = called(f"metric {name}", function, read_only(y), read_only(p))
        found = called(f"what metric {name} gave", np.asarray, given, dtype=np.float64)
        if found.ndim and found.shape != (len(y),):
            msg = (
                f"metric {name} gave an array of shape {found.shape} for {len(y)} rows; give one "
                "loss for each row, or one number for all"
            )
            raise UserCodeError(msg)
        wrong = int((~np.isfinite(found)).sum())
        if wrong:
            where = f"{wrong} of {len(y)} losses" if found.ndim else "its number"
            msg = (
                f"metric {name}: {where} for {len(y)} rows is not finite ({_example(found)}); give "
                "a finite number for whatever a model may answer"
            )
            raise UserCodeError(msg)
        return np.asarray(found, dtype=np.float64)

    return measured


def _example(found: Floats) -> str:
    bad = found if not found.ndim else found[~np.isfinite(found)][0]
    return f"{float(bad):g}"
