"""The words of a policy check themselves and round-trip."""

import json
from datetime import timedelta

import pytest

from airflow_mlops.policy import (
    AB,
    Approval,
    Arrival,
    AtLeast,
    AtMost,
    Better,
    Calibrated,
    Canary,
    Contract,
    Custom,
    Decay,
    Dependencies,
    DependencyChange,
    Drift,
    Fair,
    Full,
    Gate,
    Growth,
    Guarded,
    Health,
    Keep,
    Loads,
    MaxAge,
    NewRows,
    NoLeak,
    NotWorse,
    OnRequest,
    Output,
    Probe,
    Regret,
    Retrain,
    Round,
    Schedule,
    SchemaChange,
    Shadow,
    Sql,
    Stage,
    Table,
    Trigger,
    Window,
    Word,
    duration,
)

WORDS = (
    Table("c", "t", "id", "at", "y", "l", "2d", ("id", "at", "x"), stale="2h"),
    Sql("select * from rows", {"weather": "w"}, {"labels": "7d"}),
    Arrival("10m"),
    Window("182d", "7d", (0.5,), "2d"),
    Probe("log_loss", 0.1, 0.01, 60, "a.b:fit"),
    Regret(1.0, "a.b:fit"),
    Growth(2.0),
    Drift("3 of 5", 0.2, 0.5, ("price",), {"price": 2.0, "load": 1.0}),
    Drift(weights="importance", ignore=("month",)),
    Drift(important=["price"], ignore=["month"]),
    NewRows(500),
    Decay("log_loss", 0.1, 0.01, "3 of 4"),
    SchemaChange(0.2),
    DependencyChange(),
    MaxAge("90d", 0.2),
    Schedule("28d"),
    OnRequest(),
    Round("91d", {"max_iter": 200}),
    Loads(100.0),
    AtLeast("roc_auc", 0.7),
    AtMost("brier", 0.2),
    Better("brier", 0.01),
    NotWorse("brier", 0.03, 0.1),
    NotWorse("recall", by="hour >= 18", fail_on="warn"),
    Fair("recall", "town", 0.1, fail_on="never"),
    Calibrated(0.1),
    Output(0.0, 100.0),
    NoLeak(0.9),
    Custom("checks:sane"),
    Approval(("lead", "owner"), "1d"),
    Contract("warn", ("null", "new category")),
    Dependencies("warn", "/opt/constraints.txt"),
    Retrain((Probe(), OnRequest()), "2d", "1 per 7d"),
    Health(2_000.0, 100.0, "30m", 5.0, "1h", 2.0, 4.0, "warn"),
    Keep("365d", "30d", "730d", "12w"),
    Shadow("2d", metric="brier", alpha=0.01, p95_ms=50.0, failures=0.02, least=200),
    Canary(5.25, "3h", "more", 0.2, 50, metric="conversion"),
    AB(40.0, "7d", "more", 0.01, "promote", metric="conversion", least=5_000),
    Full(),
)


@pytest.mark.parametrize("word", WORDS, ids=lambda w: type(w).__name__)
def test_a_word_round_trips_through_json(word):
    assert type(word).from_dict(json.loads(json.dumps(word.to_dict()))) == word


def test_every_word_is_tested_here():
    concrete = {w for w in Word.known.values() if w not in (Trigger, Gate, Stage, Guarded)}
    assert concrete == {type(w) for w in WORDS}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: duration("7"), "'7'.*such as '7d'"),
        (lambda: duration("1.5d"), "1.5d"),
        (lambda: duration("-1d"), "-1d"),
        (lambda: Table("c", "t", "i", "a", "y", "l", "soon"), "soon"),
        (lambda: Table("c", "t", "i", "a", "y", "l", stale="soon"), "soon"),
        (lambda: Table("c", "t", "i", "a", "y", "l", stale="0h"), "Table stale is '0h'"),
        (lambda: Window("7d", "7d"), "must hold two windows"),
        (lambda: Window("70d", "7d", (1.0,)), "Window shorter.*1.0"),
        (lambda: Window("70d", embargo="10w"), "embargo '10w' leaves nothing of span '70d'"),
        (lambda: Window("70d", embargo="soon"), "soon"),
        (lambda: NotWorse("auc"), "NotWorse: unknown metric 'auc'; known: absolute_error, .*own"),
        (lambda: Better("costs.missed:"), "'costs.missed:'; it has to be 'module:function'"),
        (lambda: NotWorse(by=" "), "NotWorse by is ' '; it has to be a column"),
        (lambda: NotWorse(margin=-1), "NotWorse margin.*not -1"),
        (lambda: NotWorse(fail_on="always"), "NotWorse fail_on is 'always'; known: 'error'"),
        (lambda: Loads(memory_mb=0), "Loads memory_mb"),
        (lambda: Output(1.0, 0.0), "Output low is 1.0 and high is 0.0"),
        (lambda: NoLeak(1.1), "NoLeak limit must lie between 0.5 and 1, not 1.1"),
        (lambda: Calibrated(0), "Calibrated max_error"),
        (lambda: AtLeast("roc_auc", 70), "AtLeast value of roc_auc must .* 0 and 1, not 70"),
        (lambda: AtLeast("r2", 1.5), "AtLeast value of r2 must lie .* and 1, not 1.5"),
        (lambda: AtLeast("a:gini", float("nan")), "AtLeast value must be a number, not nan"),
        (lambda: AtLeast("roc_auc", "0.7"), "AtLeast value must be a number, not '0.7'"),
        (lambda: AtMost("brier", float("nan")), "AtMost value must be a number, not nan"),
        (lambda: AtMost("brier", 25), "AtMost value of brier must lie between 0 and 1, not 25"),
        (lambda: AtMost("log_loss", -1), "AtMost value of log_loss must lie between 0 .* not -1"),
        (lambda: NotWorse(margin="1"), "NotWorse margin must be a number, not '1'"),
        (lambda: NotWorse(alpha=True), "NotWorse alpha must be a number, not True"),
        (lambda: Loads(p95_ms="fast"), "Loads p95_ms must be a number, not 'fast'"),
        (lambda: Output(float("nan"), 1.0), "Output low must be a number, not nan"),
        (lambda: Output(0, "1"), "Output high must be a number, not '1'"),
        (lambda: Fair("recall", "town", None), "Fair max_gap must be a number, not None"),
        (lambda: Fair("recall", "", 0.1), "Fair by is "),
        (lambda: Custom("sane"), "Custom check is 'sane'; it has to be 'module:function'"),
        (lambda: Arrival("0s"), "Arrival interval is '0s'"),
        (lambda: NewRows(0), "NewRows rows.*0"),
        (lambda: Table("c", "t", "i", "a", "y", "l", entity=""), "Table entity is ''"),
        (
            lambda: Table("c", "t", "i", "a", "y", "l", columns=("i", "x"), entity="z"),
            "Table entity 'z' is not among columns=.*add it",
        ),
        (lambda: Approval([1]), "Approval by names 1; write an id"),
        (lambda: Approval(["a"], separate="no"), "separate is 'no'"),
        (lambda: Approval(["a"], quorum=2), "quorum is 2, and 1 different"),
        (lambda: Decay(sustained=2), "Decay sustained.*2"),
        (lambda: Round("0d"), "Round window is '0d'"),
        (lambda: Round(params=[1]), "Round params is"),
        (lambda: Decay(drop=-1), "Decay drop.*-1"),
        (lambda: Decay(sustained="4 of 3"), "Decay sustained.*4 of 3"),
        (lambda: SchemaChange(-0.1), "SchemaChange fresh.*-0.1"),
        (lambda: MaxAge("old"), "old"),
        (lambda: Schedule("often"), "often"),
        (lambda: Probe(alpha=0), "alpha.*not 0"),
        (lambda: Probe(alpha=0.6), "between 1e-06 and 0.5, not 0.6"),
        (lambda: Probe(margin=-0.1), "margin.*-0.1"),
        (
            lambda: Probe(challenger="a.fit"),
            "challenger is 'a.fit'; it has to be 'module:function'",
        ),
        (lambda: Probe(challenger="a b:fit"), "'a b:fit'"),
        (lambda: Probe(challenger="a:b:c"), "'a:b:c'"),
        (lambda: Probe(challenger=len), "built-in function len"),
        (lambda: Regret(challenger=""), "Regret challenger is ''"),
        (
            lambda: Retrain((Probe(challenger="a:f"), Regret(challenger="b:f"))),
            "a policy has one challenger, not 'a:f' and 'b:f'",
        ),
        (lambda: Regret(0), "Regret limit"),
        (lambda: Growth(1.0), "Growth factor.*1.01"),
        (lambda: Growth(float("nan")), "Growth factor"),
        (lambda: Drift("3 of 2"), "1 <= n <= m, not '3 of 2'"),
        (lambda: Drift("0 of 2"), "1 <= n <= m"),
        (lambda: Drift(share=1.5), "Drift share must lie between 0 and 1, not 1.5"),
        (lambda: Drift(weights={"x": -1.0}), "Drift weight of 'x' must lie between 0"),
        (lambda: Drift(weights="size"), "Drift weights is 'size'; known: 'importance'"),
        (lambda: Drift(ignore="month"), "Drift ignore is 'month'; write a list of columns"),
        (lambda: Drift(important="price"), "Drift important is 'price'; write a list of columns"),
        (lambda: Drift(weights=["price"]), "Drift weights is .'price'.; known: 'importance'"),
        (lambda: Drift(important=("x",), ignore=("x",)), "names 'x', which is important"),
        (lambda: Drift("two of three"), "'2 of 3', not 'two of three'"),
        (lambda: Approval(()), "at least one user"),
        (lambda: Approval(("a",), "later"), "later"),
        (lambda: Retrain(cooldown="x"), "'x'"),
        (lambda: Health(rss_mb=0), "Health rss_mb.*not 0"),
        (lambda: Health(rows_per_s=-1), "Health rows_per_s.*-1"),
        (lambda: Health(duration="long"), "long"),
        (lambda: Health(delay="soon"), "soon"),
        (lambda: Health(disk_free_gb=-1), "disk_free_gb"),
        (lambda: Health(factor=1.0), "Health factor.*1.1"),
        (lambda: Health(silent=0.5), "Health silent.*0.5"),
        (lambda: Keep(usages="6d"), "Keep usages is '6d'; what is younger than 7d always stays"),
        (lambda: Keep(findings="a year"), "a year"),
        (lambda: Health(fail_on="always"), "'always'; known: 'error', 'warn', 'never'"),
        (lambda: Canary(percent=0), "Canary percent must lie between 0.01 and 99.99, not 0"),
        (lambda: Canary(percent=100), "not 100"),
        (lambda: AB(percent=-1), "AB percent.*-1"),
        (lambda: AB(percent=33.333), "steps of 0.01"),
        (lambda: Canary(hold="0s"), "Canary hold is '0s'"),
        (lambda: Shadow("soon"), "soon"),
        (lambda: Shadow(metric="conversion"), "'conversion'; it needs a per-row loss"),
        (lambda: Shadow(alpha=0.3), "Shadow alpha.*0.3"),
        (lambda: Canary(failures=0), "Canary failures.*not 0"),
        (lambda: Canary(p95_ms=0), "Canary p95_ms.*not 0"),
        (lambda: Canary(least=10), "Canary least.*not 10"),
        (lambda: Canary(labelled=-1), "Canary labelled.*-1"),
        (lambda: AB(within="0d"), "AB within is '0d'"),
        (lambda: AB(min_effect=0), "AB min_effect.*not 0"),
        (lambda: AB(otherwise="wait"), "'wait'; known: 'keep', 'promote'"),
        (lambda: AB(better="higher"), "'higher'; known: 'less', 'more'"),
        (lambda: AB(better="more"), "of a loss less is better"),
        (lambda: AB(better="more", metric="brier"), "of brier less is better"),
        (lambda: Contract("always"), "Contract fail_on is 'always'; known: 'error', 'warn'"),
        (lambda: Contract(fail_kinds=["nul"]), "has 'nul'; known: 'missing', .*'new category'$"),
        (lambda: Contract(fail_kinds=["unexpected"]), "has 'unexpected'"),
        (lambda: Contract(fail_kinds="null"), r"write a list, \['null'\]"),
        (lambda: Retrain(budget="4"), "'4 per 30d', not '4'"),
        (lambda: Retrain(budget="4 per moon"), "moon"),
        (lambda: Retrain(budget="0 per 30d"), "'0 per 30d' allows nothing"),
        (lambda: Word.from_dict({"word": "Nope"}), "'Nope'; known: .*Probe"),
        (lambda: Gate.from_dict({"word": "Probe"}), "'Probe'; known: AtLeast"),
        (lambda: Trigger.from_dict({}), "None; known"),
    ],
)
def test_a_wrong_word_is_refused_with_its_value_and_what_is_allowed(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90s", timedelta(seconds=90)),
        ("5m", timedelta(minutes=5)),
        ("36h", timedelta(hours=36)),
        ("7d", timedelta(days=7)),
        ("2w", timedelta(days=14)),
        ("2 w", timedelta(days=14)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, value):
    assert duration(text) == value


def test_the_budget_is_a_count_and_a_span():
    assert Retrain(budget="4 per 30d").limit() == (4, timedelta(days=30))


def test_a_trigger_is_found_by_its_kind():
    policy = Retrain((Growth(2.0), OnRequest()))
    assert policy.trigger(Growth) == Growth(2.0)
    assert policy.trigger(Probe) is None


def test_a_challenger_is_named_by_either_of_those_who_ask_it():
    named = Regret(challenger="a:f")
    assert Retrain((Probe(), named)).challenger == "a:f"
    assert Retrain((Probe(challenger="a:f"), named)).challenger == "a:f"
    assert Retrain().challenger is None


def test_what_is_known_later_has_to_be_an_input():
    with pytest.raises(ValueError, match="known_after 'lables' is no input; there are rows, lab"):
        Sql("select * from rows", known_after={"lables": "7d"})
    with pytest.raises(ValueError, match="not a duration: 'soon'"):
        Sql("select * from rows", known_after={"labels": "soon"})


def test_a_margin_that_is_not_given_is_that_of_its_kind():
    words = NotWorse("brier"), NotWorse("roc_auc"), NotWorse("a:b"), NotWorse("recall", by="town")
    assert [word.margin for word in words] == [0.02, 0.005, 0.02, 0.05]
    assert NotWorse("roc_auc", margin=0.0).margin == 0.0
