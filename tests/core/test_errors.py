"""The family of an error says whether a retry can help."""

import inspect

import pytest

from airflow_mlops.core import errors
from airflow_mlops.core.errors import (
    ConfigurationError,
    MlopsError,
    RejectedError,
    UnavailableError,
)

FAMILIES = (ConfigurationError, RejectedError, UnavailableError)
EVERY = [
    found
    for _, found in inspect.getmembers(errors, inspect.isclass)
    if issubclass(found, MlopsError) and found is not MlopsError
]


@pytest.mark.parametrize("error", EVERY, ids=lambda e: e.__name__)
def test_every_error_belongs_to_exactly_one_family(error):
    assert sum(issubclass(error, family) for family in FAMILIES) == 1


@pytest.mark.parametrize("error", EVERY, ids=lambda e: e.__name__)
def test_every_error_says_what_it_means(error):
    assert error.__doc__
    assert error.__doc__.strip().endswith(".")
