"""Flips: which decisions change, where, and which of them to read."""

import json
import re
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.evaluation.flips import CASES, Answered, Flips, find_flips
from airflow_mlops.core.evaluation.parts import find_parts
from airflow_mlops.core.reports.flips import flips_page, flips_text

START = datetime(2026, 3, 2, tzinfo=UTC)
DAYS = ("mon", "tue", "wed")


def table(n, rng, **columns):
    times = pa.array([START + timedelta(minutes=i) for i in range(n)], pa.timestamp("us", "UTC"))
    usual = {"id": np.arange(n), "at": times, "x": rng.normal(size=n), "y": rng.normal(size=n)}
    return pa.table({**usual, "day": pa.array(rng.choice(DAYS, n)), **columns})


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def answers(rng):
    """Two classifiers that differ on Tuesdays with a large x, there the candidate is wrong."""
    n = 4_000
    rows = table(n, rng)
    labels = np.asarray(rng.random(n) < 0.5, float)
    right = np.where(labels > 0.5, 0.9, 0.1)
    moved = np.asarray(rows["day"]) == "tue"
    moved &= np.asarray(rows["x"]) > 0.5
    said = np.where(moved, 1 - right, right)
    return Answered("class", rows, right, said, labels, "id", "at"), moved


def find(answers):
    return find_flips(answers, candidate="m@2", champion="m@1")


def test_the_part_of_the_rows_that_flips_is_found_and_named(answers):
    given, moved = answers
    found = find(given)
    assert (found.total.rows, found.total.flips) == (4_000, moved.sum())
    assert (found.total.gained, found.total.lost) == (0, moved.sum())
    (part,) = found.segments
    assert {"day = tue"} < set(part.where.split(" and "))
    cut = float(re.search(r"x > ([\d.]+)", part.where)[1])
    assert cut == pytest.approx(0.5, abs=0.05)
    assert part.flips == pytest.approx(moved.sum(), rel=0.1)
    assert part.share > 0.9
    assert str(moved.sum()) in found.line
    assert part.where in found.line


def test_what_is_counted_adds_up(answers):
    found = find(answers[0])
    assert sum(n for *_, n in found.changes) == found.total.flips
    assert {(a, b) for a, b, _ in found.changes} == {(0, 1), (1, 0)}
    for part in found.segments:
        assert part.gained + part.lost == part.flips <= part.rows


def test_the_report_round_trips_through_json(answers):
    found = find(answers[0])
    assert Flips.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_the_same_answers_flip_nothing(answers):
    given = answers[0]
    same = Answered("class", given.rows, given.champion, given.champion, given.labels, "id", "at")
    found = find(same)
    assert (found.total.flips, found.segments, found.cases, found.changes) == (0, (), (), ())
    assert "0 of 4,000 decisions change (0.0%)" in found.line


def test_flips_without_a_pattern_have_no_segment(rng):
    n = 4_000
    p = rng.random(n)
    found = find(Answered("class", table(n, rng), p, rng.permutation(p), None, "id", "at"))
    assert found.total.flips > n / 3
    assert found.segments == ()
    assert found.total.gained is None


def test_missing_values_can_be_the_pattern(rng):
    n = 4_000
    hole = rng.random(n) < 0.2
    rows = table(n, rng, z=np.where(hole, np.nan, rng.normal(size=n)))
    p = rng.random(n)
    (part,) = find(Answered("class", rows, p, np.where(hole, 1 - p, p), None, "id", "at")).segments
    assert (part.where, part.rows, part.flips) == ("z is missing", hole.sum(), hole.sum())


def test_of_many_columns_the_numbers_and_the_most_frequent_values_are_asked_for(rng):
    n = 5_000
    texts = {f"t{i}": pa.array(rng.integers(0, 50, n)).cast(pa.string()) for i in range(1_000)}
    usual = np.where(rng.random(n) < 0.5, "often", "else")
    rows = pa.table({**texts, "day": usual, "last": rng.normal(size=n)})
    inside = (usual == "often") & (np.asarray(rows["last"]) > 0.5)
    tracemalloc.start()
    (part,) = find_parts(rows, inside, seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "last >" in part.where
    assert "day" in part.where
    assert peak < 30e6  # 10,000 questions about 2,500 rows were 200 MB


def test_twenty_cases_the_worst_and_the_best(rng):
    n = 1_000
    labels = np.ones(n)
    before, after = rng.random(n), rng.random(n)
    rows = table(n, rng)
    found = find(Answered("class", rows, before, after, labels, "id", "at"))
    assert len(found.cases) == CASES
    worse = [c for c in found.cases if c.candidate < 0.5 <= c.champion]
    assert len(worse) == CASES // 2
    moved = np.abs(after - before)
    lost = moved[(before >= 0.5) & (after < 0.5)]
    assert abs(worse[0].candidate - worse[0].champion) == lost.max()
    case = found.cases[0]
    assert (case.label, set(case.values)) == (1.0, {"x", "y", "day"})
    assert float(case.values["x"]) == pytest.approx(rows["x"][int(case.key)].as_py(), rel=1e-5)


def test_an_answer_of_a_number_flips_if_it_moves_by_more_than_the_usual_error(rng):
    n = 2_000
    labels = rng.normal(size=n) * 10
    before = labels + rng.normal(size=n)
    after = before + np.where(np.arange(n) < 100, 5.0, 0.1)
    found = find(Answered("number", table(n, rng), before, after, labels, "id", "at"))
    assert found.size == pytest.approx(np.median(np.abs(before - labels)))
    assert found.total.flips == 100
    assert found.changes == ()
    assert "answers move by > " in found.line
    bare = find(Answered("number", table(n, rng), before, after, None, "id", "at"))
    assert bare.size == pytest.approx(before.std() / 10)


def test_of_several_classes_the_most_likely_one_counts(rng):
    n = 900
    labels = rng.integers(0, 3, n).astype(float)
    before = np.eye(3)[labels.astype(int)] * 0.6 + 0.1
    after = before.copy()
    after[:50] = np.roll(before[:50], 1, axis=1)
    found = find(Answered("class", table(n, rng), before, after, labels, "id", "at"))
    assert (found.total.flips, found.total.lost, found.total.gained) == (50, 50, 0)
    assert {(b - a) % 3 for a, b, _ in found.changes} == {1}


def test_answers_about_other_rows_are_refused(rng):
    with pytest.raises(ConfigurationError, match=r"\(3,\) and \(2,\) for 3 rows"):
        Answered("class", table(3, rng), np.zeros(3), np.zeros(2), None, "id", "at")


@pytest.mark.parametrize("n", [0, 1, 59])
def test_too_few_rows_for_a_tree_have_no_segments(rng, n):
    flagged = np.arange(n) % 2 == 0
    assert list(find_parts(table(n, rng).drop_columns(["id", "at"]), flagged, seed=0)) == []


HOSTILE = "</td><script>alert(1)</script> ![x](http://evil/?q=1) | `a` [b](javascript:c)"


def test_what_a_row_holds_is_only_text(rng):
    n = 400
    names = {HOSTILE: np.arange(n) % 2.0, "kind": pa.array([HOSTILE] * 200 + ["b", "c"] * 100)}
    rows = table(n, rng, **names)
    p = rng.random(n)
    moved = np.where(np.arange(n) < 200, 1 - p, p)
    found = find(Answered("class", rows, p, moved, None, "id", "at"))
    page, text = flips_page(found), flips_text(found, "http://mlflow/x")
    assert "kind = </td><script>" in found.segments[0].where
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") > 20
    from markdown_it import MarkdownIt

    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in html
    assert "<img" not in html
    assert re.findall(r'href="([^"]*)"', html) == ["http://mlflow/x"]
    assert html.count("<table>") == 2
    assert len({row.count("<td>") for row in html.split("</tr>")} - {0}) == 2  # a width per table


def test_a_page_of_decisions_to_the_worse_is_a_warning(answers):
    page = flips_page(find(answers[0]))
    assert '<p class="status warn">' in page
    assert "from m@1 to m@2" in page
    assert page.count("<table>") == 3


def test_finding_flips_imports_no_plotting_and_no_airflow():
    code = (
        "import sys, airflow_mlops.core.evaluation.flips;"
        "assert not {'airflow', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_people_said_is_only_text_on_the_candidates_card():
    from markdown_it import MarkdownIt

    from airflow_mlops.core.deployment.cards import candidate_card
    from airflow_mlops.core.refs import ModelRef

    found = {"since": "a", "until": "b", "note": HOSTILE, "metrics": []}
    checks = [{"gate": "Custom", "status": "failed", "reason": HOSTILE}]
    evidence = {"why": HOSTILE, "evaluation": found, "verdict": {"checks": checks}}
    text = candidate_card(ModelRef("m", 2), 1, evidence, "http://mlflow/x", contract=[HOSTILE])
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<script" not in html
    assert "<img" not in html
    assert re.findall(r'href="([^"]*)"', html) == ["http://mlflow/x"]
    assert html.count("alert(1)") == 4
