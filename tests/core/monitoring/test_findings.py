"""Findings that another tool or release wrote: named, not a traceback."""

import pytest

from airflow_mlops.core.errors import RejectedError
from airflow_mlops.core.monitoring.findings import parsed
from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.monitoring.served import ServedWindow


def observation(body):
    return Observation("contract", "run/1", body, "2026-01-01T00:00:00+00:00")


def test_a_finding_that_lacks_a_part_says_whose_it_is():
    found = observation({"status": "broken"}).body
    assert found["status"] == "broken"
    assert found.get("fatal") is None
    with pytest.raises(RejectedError, match=r"monitor 'contract' on 'run/1' does not say 'fatal'"):
        found["fatal"]


@pytest.mark.parametrize("body", [None, [], "text", 7])
def test_a_finding_that_is_no_mapping_has_nothing(body):
    with pytest.raises(RejectedError, match="it has nothing"):
        observation(body).body["line"]


@pytest.mark.parametrize("body", [{}, {"champion": 1, "probe": 2}, [], None])
def test_a_finding_that_does_not_fit_is_named(body):
    with pytest.raises(RejectedError, match="monitor 'contract' on 'run/1' is not one that can"):
        parsed(observation(body), ServedWindow.from_dict)
