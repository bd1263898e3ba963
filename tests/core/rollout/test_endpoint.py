"""The endpoint of the guide does what the guide says."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from airflow_mlops.core.errors import UnavailableError
from airflow_mlops.core.ledger import Entry, Ledger, MemoryLedger
from airflow_mlops.core.rollout import Begun, Split, assign, assign_all, begin
from airflow_mlops.core.rollout.exposures import Exposures
from airflow_mlops.policy import Canary, rollout_plan

GUIDE = (Path(__file__).parents[3] / "docs" / "rollout.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
SINCE = datetime(2024, 1, 1, tzinfo=UTC)


def run(block):
    names = {}
    exec(compile(block, "docs/rollout.md", "exec"), names)
    return names


@pytest.fixture
def endpoint():
    return run(next(block for block in BLOCKS if "class Endpoint" in block))["Endpoint"]


def test_the_plan_of_the_guide_is_one():
    assert len(rollout_plan(run(BLOCKS[0])["rollout"])) == 4


def test_the_worked_example_of_the_guide_is_right():
    lines = re.findall(r"^(\S+) +(\d{16,20}) +0\.\d{3}.*?(champion at.*)$", GUIDE, re.MULTILINE)
    assert len(lines) == 4
    salt = Begun("churn", Canary(), 3, 7, SINCE.isoformat(), "brier", 0.2).salt
    assert f": {salt}" in GUIDE
    for key, hashed, said in lines:
        split = Split("churn", 3, 7, "churn@7/1", salt, int(hashed))
        assert assign(key, split).arm == "champion"
        split = Split("churn", 3, 7, "churn@7/1", salt, int(hashed) + 1)
        assert assign(key, split).arm == "candidate"
        half = Split("churn", 3, 7, "churn@7/1", salt, 2**63)
        assert ("candidate at 50 %" in said) == (assign(key, half).arm == "candidate")


@pytest.mark.services
def test_the_endpoint_serves_by_the_split_and_records_whom(endpoint, ledger, observations, model):
    for op, version in (("promote", 1), ("propose", 2)):
        draft = Entry(model, op, "", "tests", "because", version)
        ledger.record(model, op, {}, lambda _, draft=draft: draft)
    served = endpoint(ledger, model, {1: lambda _: "one", 2: lambda row: 1 / row}, every=0.0)
    assert served.answer("r0", 7, 1, SINCE) == "one"
    asked = Begun(model, Canary(percent=50.0), 1, 2, SINCE.isoformat(), "brier", 0.2)
    begun = begin(ledger, asked, key="b", by="t")
    entities = list(range(40))
    inside = assign_all(entities, Split.of(ledger.state(model)))
    fails = int(inside.argmax())
    said = [
        served.answer(f"r{e}", e, 0 if e == fails else 4, SINCE + timedelta(seconds=e))
        for e in entities
    ]
    wanted = np.where(inside & (np.arange(40) != fails), 0.25, 1).tolist()
    assert [1 if answer == "one" else answer for answer in said] == wanted
    exposures = Exposures(observations)
    served.flush(exposures)
    served.flush(exposures)
    found = exposures.arms(begun)
    assert found.candidate.units == inside.sum()
    assert found.champion.units == 40 - inside.sum()
    assert (found.candidate.failed, found.champion.failed) == (1, 0)


def test_the_endpoint_goes_on_while_the_ledger_is_away(endpoint):
    known = MemoryLedger()
    known.record("m", "p", {}, lambda _: Entry("m", "promote", "", "t", "because", 1))
    served = endpoint(known, "m", {1: lambda _: "one"}, every=0.0)
    served.ledger = Ledger("host=127.0.0.1 port=9 user=u dbname=d")
    with pytest.raises(UnavailableError):
        served.ledger.state("m")
    assert served.answer("r", 1, 0, SINCE) == "one"
