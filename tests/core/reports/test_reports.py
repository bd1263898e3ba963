"""Pages of the reports: well-formed, small, self-contained, and safe to open."""

import html
import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from airflow_mlops.core.data.profile import CategoryProfile, NumericProfile, Profile
from airflow_mlops.core.data.profiling import ProfileBuilder
from airflow_mlops.core.ledger import Entry
from airflow_mlops.core.metrics import Estimate
from airflow_mlops.core.monitoring.drift.arrival import Arrival
from airflow_mlops.core.monitoring.drift.record import body_before, body_of, with_arrivals
from airflow_mlops.core.monitoring.drift.report import ColumnDrift, DriftReport
from airflow_mlops.core.monitoring.health import judge_health
from airflow_mlops.core.monitoring.observations import Observation
from airflow_mlops.core.monitoring.resources import Usage
from airflow_mlops.core.monitoring.served import Measured, ServedWindow, Waiting
from airflow_mlops.core.monitoring.slices import SliceLoss
from airflow_mlops.core.monitoring.unlabelled import Guess
from airflow_mlops.core.reports.drift import _values, drift_report, picture, unjudged_report
from airflow_mlops.core.reports.page import table
from airflow_mlops.core.reports.performance import performance_report
from airflow_mlops.core.reports.plots import Line, timeline
from airflow_mlops.core.reports.system import dependencies_report, system_report
from airflow_mlops.policy import Health

MONDAY, WEEK = datetime(2024, 1, 1, tzinfo=UTC), timedelta(days=7)
HOSTILE = "</td></svg><script>alert('x')</script>\"&\x00\n" * 9


class Reader(HTMLParser):
    """Collects tags and text, and insists that every tag is closed."""

    VOID = ("meta", "rect", "circle", "path", "line")

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.texts = [], [], []
        self.feed(page)
        assert self.open in ([], ["p"])

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(page):
    """Parse a page; it asks for nothing from outside, and runs nothing."""
    found = Reader(page)
    names = {name for name, _ in found.tags}
    assert not names & {"script", "img", "link", "iframe", "a", "object"}
    assert not [a for _, attrs in found.tags for a in attrs if a.startswith("on")]
    assert "url(" not in page
    assert "@import" not in page
    assert len(page.encode()) <= 500_000
    return found


def profile(**columns):
    builder = ProfileBuilder()
    builder.update(pa.record_batch(columns))
    return builder.finish()


def drift(names, model="m@1", *, moved=0.3, arrivals=(), **asked):
    """Return what is on record of a window in which these columns moved."""
    columns = tuple(
        ColumnDrift(
            name, "moved", moved, 0.1, 1e-9, moved > 0.1, f"moved: {moved:.1%}", moved > 0.05
        )
        for name in names
    )
    report = DriftReport("d@1", "d@2", "profile", 0.01, columns)
    return body_of(report, report.verdict(**asked), arrivals, model=model, window=7)


def test_the_drift_of_a_window_shows_each_column_before_and_now():
    rng = np.random.default_rng(0)
    before, now = (
        profile(
            price=rng.normal(shift, 1, 2000),
            few=rng.integers(0, 3, 2000),
            kind=pa.array(rng.choice(["a", "b"], 2000, p=[share, 1 - share])),
        )
        for shift, share in ((0, 0.5), (3, 0.9))
    )
    found = read(drift_report(drift(before.columns), (before, now)))
    text = " ".join(found.texts)
    assert "Drift of window 7 against m@1" in text
    assert "price (moved 30%), few (moved 30%), kind (moved 30%) drifted against" in text
    assert [name for name, _ in found.tags].count("svg") == 3
    assert re.search(r"\ba\s+4\d\.\d% → 9\d\.\d%", text)


def quiet_and_warned(**asked):
    """Return a finding of three columns, one of each status."""
    both = [drift([name], moved=moved) for name, moved in (("quiet", 0.0), ("warns", 0.07))]
    columns = [c for body in (*both, drift(["drifts"])) for c in body["columns"]]
    report = DriftReport.from_dict({**both[0], "columns": columns})
    arrivals = asked.pop("arrivals", ())
    return body_of(report, report.verdict(**asked), arrivals, model="m@1", window=7)


@pytest.mark.parametrize(
    "body",
    [
        quiet_and_warned(share=0.9),
        quiet_and_warned(share=0.2),
        drift(["warns"], moved=0.07),
        drift(["quiet"], moved=0.0, arrivals=[Arrival("volume", "9 rows, usually 168 (p 1e-9)")]),
        drift(["quiet"], moved=0.0, arrivals=[Arrival("freshness", "2.0 days old")]),
        drift(["quiet"], moved=0.0),
    ],
    ids=["a column drifted", "dataset", "warns", "volume", "freshness", "ok"],
)
def test_the_page_of_a_drift_says_what_is_on_record(body):
    one = profile(**{c["column"]: [1.0, 2.0] for c in body["columns"]})
    page = drift_report(body, (one, one))
    assert f"<b>{body['status']}</b>: {html.escape(body['line'])}</p>" in page
    found = read(page)
    for column in body["columns"]:
        name = found.texts.index(column["column"])
        assert found.texts[name + 1] == column["status"]


def test_a_column_that_warns_is_drawn_before_the_quiet_ones():
    body = quiet_and_warned()
    one = profile(**{c["column"]: [1.0, 2.0] for c in body["columns"]})
    page = drift_report(body, (one, one))
    order = [page.index(text) for text in ("<h3>drifts", "<h3>warns", "<details>", "<h3>quiet")]
    assert order == sorted(order)
    assert "1 column did not move" in page


def test_a_finding_from_before_there_were_lines_is_drawn():
    body = drift(["x"])
    for name in ("status", "line", "findings", "dataset", "reason", "warned"):
        del body[name]
    for name in ("status", "warned"):
        del body["columns"][0][name]
    one = profile(x=[1.0, 2.0])
    assert "<b>warn</b>: window 7: x (moved 30%) drifted" in drift_report(body, (one, one))


def test_what_did_not_drift_is_folded_away():
    page = drift_report(drift(["x"], moved=0.0), (profile(x=[1.0]), profile(x=[2.0])))
    names = [name for name, _ in read(page).tags]
    assert names.index("details") < names.index("svg")


def test_hostile_names_and_values_are_text():
    one = profile(**{HOSTILE: pa.array([HOSTILE, "a"] * 9)})
    found = read(drift_report(drift([HOSTILE], HOSTILE), (one, one)))
    assert any("<script>" in text for text in found.texts)
    window = window_of(
        1, slices=(SliceLoss(HOSTILE, HOSTILE, 60, 0.2, 0.1, 60, 0.01, decayed=True),)
    )
    entry = Entry("m", "promote", "k", HOSTILE, HOSTILE, 1, evidence={"now": window.until})
    read(performance_report(HOSTILE, [Measured((window,)).body(window)], [], [entry]))
    seen = observation(dag_id=HOSTILE, task_id=HOSTILE, line=HOSTILE, outcome=HOSTILE)
    read(system_report(HOSTILE, [looked(HOSTILE)], [seen]))
    read(dependencies_report(HOSTILE, [asked(HOSTILE)], [asked(HOSTILE)]))


def test_a_wide_table_with_long_values_stays_small():
    values = {f"{HOSTILE} value {i}": 10 for i in range(1000)}
    columns = {f"{HOSTILE} {i}": CategoryProfile(10_000, 0, 0, values) for i in range(1000)}
    wide = Profile(columns)
    page = drift_report(drift(columns), (wide, wide))
    assert "960 more columns are not drawn" in " ".join(read(page).texts)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ([1.0] * 9, [1.0] * 9),
        ([np.inf, -np.inf, 1.0], [np.inf, 2.0, 3.0]),
        ([np.inf], [np.inf]),
        ([float(i) for i in range(99)], [np.inf, -np.inf]),
        ([1e300, -1e300] * 9, [float(i) for i in range(99)]),
        ([None, None], [1.0, 2.0]),
        ([0.0] * 999 + [1.0], [float(i) for i in range(99)]),
        ([True, False], [True, True]),
        (["x"], ["x", None]),
        ([None, None], [None, None]),
    ],
    ids=str,
)
def test_columns_of_every_kind_are_drawn_or_left_out(before, now):
    kind = pa.array([*before, *now]).type
    one, two = (profile(c=pa.array(part, kind)) for part in (before, now))
    if one.columns and two.columns:
        svg = picture(one.columns["c"], two.columns["c"])
        assert "nan" not in svg
        assert "inf" not in svg
        if svg:
            read(svg)


def test_the_values_of_a_profile_are_those_of_the_rows():
    rows = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, -4.0])
    found = profile(c=rows).columns["c"]
    assert isinstance(found, NumericProfile)
    values, shares = _values(found)
    wanted, counts = np.unique(rows, return_counts=True)
    assert values == pytest.approx(wanted, abs=1e-2)
    assert shares == pytest.approx(counts / len(rows))


def window_of(index, **more):
    span = (f"2024-01-{index:02d}T00:00:00+00:00", f"2024-01-{index + 1:02d}T00:00:00+00:00")
    usual = {"served": 100, "base": 0.15, "metrics": (Estimate("brier", 0.2, 0.18, 0.22, 100),)}
    blocks = (0.19, 0.21) * 4
    return ServedWindow("m@1", index, *span, "brier", 100, blocks, blocks, **{**usual, **more})


def test_performance_over_time_marks_decisions_and_alarms():
    windows = (window_of(1, base=0.2), window_of(2), window_of(3, metrics=(), base=None))
    measured = Measured(windows, (Waiting(4, 10, 100),))
    entries = [
        Entry("m", "retrain", "k", "t", "why", evidence={"now": windows[1].until}, seq=1),
        Entry("m", "promote", "l", "p", "better", 2, seq=2),
        Entry("m", "keep", "n", "t", "nothing", seq=3),
    ]
    guesses = [
        Guess("m@1", i, windows[0].since, windows[1].until, "brier", 9, 0.21, 0.7, 0)
        for i in (1, 9)
    ]
    bodies = [measured.body(w) for w in windows]
    page = performance_report("m", bodies, [g.to_dict() for g in guesses], entries)
    found = read(page)
    text = " ".join(found.texts)
    assert " @2 " in text
    assert "retrain or refuse" in text
    assert "2024-01-03 00:00 promote candidate @2 better" in " ".join(text.split())
    quiet = performance_report("m", [measured.body(windows[0])])
    assert "surely worse than its backtest" not in quiet
    assert "serves from here" not in quiet
    assert [a.get("class") for n, a in found.tags if n == "circle"].count("alarm") == 1
    assert "window 4 waits: 10 of 100 rows have a label, 10%" in text
    assert "off by 0.0100 on average" in text
    names = ("model", "index", "since", "until", "metric", "rows", "champion", "probe")
    old = [{name: body[name] for name in names} for body in bodies]
    read(performance_report("m", old))


def test_a_window_without_its_challenger_is_drawn_too():
    alone = replace(window_of(1), probe=(), unprobed="challenger m:f raised ValueError")
    read(performance_report("m", [{**alone.to_dict(), "line": ""}]))


def test_years_of_windows_and_decisions_stay_small():
    windows = [replace(window_of(1), index=i, until=str(MONDAY + i * WEEK)) for i in range(2000)]
    bodies = [{**w.to_dict(), "line": ""} for w in windows]
    entries = [Entry("m", "retrain", "k", "t", HOSTILE, evidence={"now": w.until}) for w in windows]
    read(performance_report("m", bodies, [], entries))


def test_pages_without_findings_say_so():
    for page in (
        performance_report("m", []),
        system_report("m", [], []),
        dependencies_report("m", []),
        unjudged_report("m", {}),
        unjudged_report("m", body_before("m@1")),
    ):
        text = " ".join(read(page).texts)
        assert re.search("yet|no window is complete", text)
        assert "None" not in text
        assert '<p class="status none">' in page


def test_before_a_window_is_judged_the_age_of_the_rows_is_shown():
    body = with_arrivals(body_before("m@1"), [Arrival("freshness", "2.0 days old")])
    text = "<b>warn</b>: no window is complete since m@1 serves; 2.0 days old</p>"
    assert text in unjudged_report("m", body)


def test_numbers_of_a_column_have_the_same_digits_unless_one_would_be_0():
    page = table(
        ("loss", "p"), [(False, (0.213, 1e-9)), (True, (0.03997, 0.5)), (False, (None, 1))]
    )
    cells = [text for text in read(page).texts if text.strip()]
    assert cells == ["loss", "p", "0.2130", "1e-09", "0.0400", "0.5", "1"]


def observation(**body):
    usual = {"dag_id": "d", "task_id": "t", "outcome": "killed", "wall_s": 2.0, "rss_mb": 100.0}
    at = "2024-01-01T00:00:00+00:00"
    return Observation("usage", "s", {**usual, "started_at": at, **body}, at)


def looked(text):
    finding = {"what": text, "status": "broken", "line": text}
    return Observation("system", "s", {"status": text, "line": text, "findings": [finding]}, text)


def asked(text):
    changes = [{"name": text, "old": text, "new": "", "used": True}]
    body = {"status": text, "line": text, "changes": changes, "model": text, "environment": text}
    return Observation("dependencies", "s", {**body, "answers": {"found": text}}, text)


def test_tasks_are_summed_up_and_drawn_with_what_went_wrong():
    tries = [observation(cpu_s=1.0), *[observation(outcome="success", task_id="u")] * 2]
    page = system_report("m", [looked("disk is full")], tries)
    found = read(page)
    assert [a.get("class") for n, a in found.tags if n == "circle"].count("alarm") == 2
    assert "disk is full" in found.texts
    assert "1 of 3 tries failed" in page
    cells = re.sub("<[^>]*>", " ", page).split("MB, last")[1].split()
    assert cells[:9] == ["d.u", "2", "success", "2.000", "2.000", "0.000", "0.000", "100", "100"]
    assert "<details open><summary>d.t<" in page
    assert "<details><summary>d.u<" in page


def test_the_head_has_one_line_for_a_task_and_the_table_the_rest():
    name = "d.t (try 1 of r)"
    usual, now = Usage(7, 6, 100), Usage(18.2, 15, 100)
    slow = [f.to_dict() for f in judge_health(name, now, [*[usual] * 9, now], Health())]
    killed = {"what": "d.v (try 2 of r)", "status": "warn", "line": "d.v, try 2: killed after 3 s"}
    body = {"status": "warn", "line": "long", "findings": [*slow, killed]}
    page = system_report("m", [Observation("system", "s", body, "now")], [])
    head = "t: 18.2 s, 2.6 times the usual 7.0 s, twice (and 1 more)\nv: killed after 3 s</p>"
    assert f"<b>warn</b>: {head}" in page
    assert page.count("killed after 3 s") == 2
    assert "long" not in read(page).texts


def test_names_on_a_timeline_do_not_lie_upon_each_other():
    marks = [(float(at), f"@{at}") for at in (1, 2, 50, 53, 56, 99, 100)]
    svg = timeline([Line("main", [0.0, 100.0], [0.0, 1.0])], marks=[*marks, (54.0, "")])
    found = re.findall(r'x="([\d.]+)" y="11" text-anchor="middle">([^<]+)<', svg)
    places = [(float(x), 3.6 * (len(name) + 1)) for x, name in found]
    spans = sorted((x - half, x + half) for x, half in places)
    assert all(one[1] <= two[0] for one, two in itertools.pairwise(spans))
    assert spans[-1][1] <= 720
    assert [name for _, name in found] == ["@100", "@56", "@50", "@2"]
    assert (svg.count('class="mark"'), svg.count('class="tick"')) == (len(marks), 1)


def test_the_axis_of_a_few_minutes_names_none_twice():
    start = MONDAY.timestamp()
    svg = timeline([Line("main", [start, start + 60], [0.0, 1.0])])
    assert re.findall(r">(01 Jan [^<]+)<", svg) == ["01 Jan 00:00", "01 Jan 00:01"]


def test_a_timeline_of_one_moment_or_of_nothing_is_drawn():
    assert timeline([]) == ""
    read(timeline([Line("main", [0.0], [0.0])], marks=[(0.0, "here")]))
