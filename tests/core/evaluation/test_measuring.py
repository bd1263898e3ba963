"""What gates measure: each lets a good model pass, and refuses the bad one that it is for."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as reference

from airflow_mlops.core.errors import ConfigurationError, UserCodeError
from airflow_mlops.core.evaluation.comparison import compare_by, compare_slices
from airflow_mlops.core.evaluation.evaluation import Evaluation, on_record
from airflow_mlops.core.evaluation.gate import judge
from airflow_mlops.core.evaluation.leaks import strongest_feature
from airflow_mlops.core.evaluation.measuring import assessed
from airflow_mlops.core.metrics import loss_function, named
from airflow_mlops.policy import (
    AtLeast,
    AtMost,
    Better,
    Calibrated,
    Custom,
    Fair,
    NoLeak,
    NotWorse,
    Output,
)
from tests.core.evaluation.answering import BASE, answers, binary


def judged(gates, given, *, loss="brier", base=BASE):
    """Measure and judge; what crosses from one task to the other is JSON."""
    gates = gates if isinstance(gates, list) else [gates]
    found = assessed(base, given, gates, loss_function(loss), seed=0)
    return judge(gates, Evaluation.from_dict(json.loads(json.dumps(found.to_dict()))))


BRIER = loss_function("brier")
SCORES = ["roc_auc", "accuracy", "recall", "precision", "f1", "average_precision"]


@pytest.mark.parametrize("metric", SCORES)
def test_a_score_that_fell_is_refused_and_one_that_did_not_is_not(metric):
    gate = NotWorse(metric, margin=0.05)
    assert judged(gate, binary(n=4_000, skill=(1.5, 1.5))).status == "passed"
    assert judged(gate, binary(n=4_000, skill=(1.5, 0.5))).status == "failed"
    assert judged(Better(metric), binary(n=4_000, skill=(0.5, 1.5))).status == "passed"
    assert judged(Better(metric), binary(n=4_000, skill=(1.5, 0.5))).status == "failed"
    assert judged(Better(metric), binary(n=4_000, skill=(1.5, 1.5))).status == "uncertain"


def test_a_comparison_of_areas_agrees_with_delongs_test():
    given = binary(1, 3_000, skill=(1.2, 1.5))
    found = compare_by(named("roc_auc"), given.y, given.champion, given.candidate, seed=0)
    ones, zeros = given.y == 1, given.y == 0
    above, below = [], []
    for p in (given.champion, given.candidate):
        rank = stats.rankdata(p)
        among = [stats.rankdata(p[rows]) for rows in (ones, zeros)]
        above.append((rank[ones] - among[0]) / zeros.sum())
        below.append(1 - (rank[zeros] - among[1]) / ones.sum())
    contrast = np.array([-1, 1])
    error = np.sqrt(
        contrast @ (np.cov(above) / ones.sum() + np.cov(below) / zeros.sum()) @ contrast
    )
    assert found.error == pytest.approx(error, rel=0.08)
    assert found.difference == pytest.approx(
        reference.roc_auc_score(given.y, given.candidate)
        - reference.roc_auc_score(given.y, given.champion)
    )
    assert found.bound(0.05) == pytest.approx(found.difference + 1.645 * error, abs=0.2 * error)


def test_the_p_value_and_the_bound_say_the_same():
    given = binary(2, 900, skill=(1.2, 1.4))
    for metric in ("brier", "roc_auc"):
        found = compare_by(named(metric), given.y, given.champion, given.candidate, seed=0)
        for alpha in (0.01, 0.05, 0.2):
            assert found.p_value(found.harm(alpha), less=True) == pytest.approx(alpha, rel=0.02)
            low = found.harm(alpha, upper=False)
            assert found.p_value(low, less=False) == pytest.approx(alpha, rel=0.02)


@pytest.mark.parametrize(("rho", "most"), [(0.0, 0.085), (0.7, 0.11)])
def test_the_size_of_the_test_of_a_score_is_near_alpha(rho, most):
    """Both models are equally good, their errors are autoregressions: one in twenty at about."""
    rng, wrong = np.random.default_rng(0), []
    for seed in range(300):
        n = 504
        y = (rng.random(n) < 0.4).astype(float)
        noise = rng.normal(size=(2, n)) * np.sqrt(1 - rho**2)
        for i in range(1, n):
            noise[:, i] += rho * noise[:, i - 1]
        found = compare_by(named("roc_auc"), y, *(y + e for e in noise), seed=seed)
        wrong.append(found.harm(0.05) < 0)
    assert 0.02 <= np.mean(wrong) <= most


def test_too_few_rows_of_one_class_are_uncertain_and_the_gate_says_how_many_labels_lack():
    given = binary(n=400, share=0.05)
    rare = int(given.y.sum())
    verdict = judged(NotWorse("recall", margin=0.5), given)
    assert verdict.status == "uncertain"
    more = -(-400 * 30 // rare) - 400
    assert f"{rare} of the rarest class: about {more:,} more labels are needed" in verdict.reason
    none = replace(given, y=np.zeros(400))
    assert "nobody can say how many" in judged(NotWorse("recall"), none).reason


class TestSlices:
    def test_each_slice_is_compared_as_its_rows_alone_are(self):
        given = binary(0, 1_200)
        pair = given.y, given.champion, given.candidate
        for metric in ("brier", "roc_auc"):
            cuts = "town", given.rows["town"]
            for one in compare_slices(named(metric), *pair, by=cuts, seed=0):
                rows = np.array(given.rows["town"].to_pylist()) == one.part
                alone = compare_by(named(metric), *(x[rows] for x in pair), seed=0)
                assert replace(one, by="", part="") == alone

    def test_a_slice_that_got_worse_is_found_though_all_rows_did_not(self):
        given = binary(0, 4_000, towns=("Oslo", "Rome", "Bonn", "Kyiv"))
        rome = np.array(given.rows["town"].to_pylist()) == "Rome"
        worse = np.where(rome, 0.5, given.candidate)
        better = np.where(rome, 0.5, (given.candidate + given.y) / 2)
        given = replace(given, candidate=better, champion=given.candidate)
        assert judged(NotWorse("brier"), given).status == "passed"
        verdict = judged(NotWorse("brier", by="town"), given)
        assert verdict.status == "failed"
        assert verdict.reason.startswith("surely worse in 1 slices: town Rome: brier 0.25")
        assert "Oslo" not in verdict.reason
        fine = judged(
            NotWorse("brier", by="town", margin=0.3),
            replace(given, candidate=given.champion * 0.99),
        )
        assert fine.status == "passed"
        assert (
            judged(NotWorse("roc_auc", by="town"), replace(given, candidate=worse)).status
            == "failed"
        )

    def test_an_expression_cuts_as_well(self):
        given = binary(0, 2_400)
        late = np.array(given.rows["hour"]) >= 18
        given = replace(given, candidate=np.where(late, 0.9, given.champion))
        verdict = judged(NotWorse("brier", by="hour >= 18"), given)
        assert verdict.status == "failed"
        assert "hour >= 18 True: brier" in verdict.reason

    def test_a_small_slice_is_shown_and_decides_nothing(self):
        towns = np.array(["Oslo"] * 700 + ["Rome"] * 95)
        given = binary(0, 795, town=towns)
        bad = replace(
            given, candidate=np.where(towns == "Rome", 1 - given.champion, given.champion * 0.999)
        )
        verdict = judged(NotWorse("brier", by="town", margin=0.3), bad)
        assert verdict.status == "passed"
        assert "shown only: town Rome: brier" in verdict.reason
        assert "on 95 rows: about 1 more labels are needed" in verdict.reason
        alone = binary(0, 300, towns=[f"t{i}" for i in range(10)])
        nothing = judged(NotWorse("brier", by="town"), alone)
        assert nothing.status == "uncertain"
        assert "no slice can be compared" in nothing.reason

    @pytest.mark.parametrize("alone", [True, False])
    def test_a_slice_in_which_the_candidate_has_no_precision_is_uncertain(self, alone):
        given = binary(0, 2_000, towns=("Rome",) if alone else ("Oslo", "Rome"))
        rome = np.array(given.rows["town"].to_pylist()) == "Rome"
        none = np.where(rome, np.minimum(given.candidate, 0.45), given.champion)
        verdict = judged(
            NotWorse("precision", by="town", margin=0.2), replace(given, candidate=none)
        )
        assert verdict.status == "uncertain"
        assert "town Rome: precision nan against 0." in verdict.reason
        assert "not defined on these rows" in verdict.reason

    def test_a_column_that_is_not_there_is_named_with_those_that_are(self):
        with pytest.raises(ConfigurationError, match=r"no column 'region'.*town, x, hour"):
            judged(NotWorse("brier", by="region"), binary())

    def test_what_the_ledger_keeps_of_sixteen_gates_by_slice_is_within_its_64_kb(self):
        rng = np.random.default_rng(0)
        columns = {f"column_{i}": rng.integers(0, 14, 16_000).astype(str) for i in range(16)}
        given = binary(0, 16_000, **columns)
        gates = [NotWorse("recall", by=name) for name in columns]
        found = assessed(BASE, given, gates, BRIER, seed=0)
        kept = on_record(found.to_dict())
        evidence = {"evaluation": kept, "verdict": judge(gates, found).to_dict()}
        assert len(json.dumps(found.to_dict())) > 64_000 > len(json.dumps(evidence))
        again = Evaluation.from_dict(kept)
        assert [c.difference for c in again.comparisons] == [
            c.difference for c in found.comparisons
        ]

    def test_false_refusals_over_all_slices_are_at_most_one_in_twenty(self):
        wrong = []
        for seed in range(60):
            given = binary(seed, 1_000, towns=[f"t{i}" for i in range(8)])
            wrong.append(judged(NotWorse("brier", by="town"), given).status == "failed")
        assert np.mean(wrong) <= 0.1


class TestFair:
    def test_a_gap_is_found_where_there_is_one(self):
        given = binary(0, 6_000)
        rome = np.array(given.rows["town"].to_pylist()) == "Rome"
        unfair = replace(given, candidate=np.where(rome, given.candidate * 0.6, given.candidate))
        gate = Fair("recall", "town", 0.1)
        assert judged(gate, given).status == "passed"
        verdict = judged(gate, unfair)
        assert verdict.status == "failed"
        assert "Oslo" in verdict.reason
        assert "Rome" in verdict.reason
        few = judged(Fair("recall", "town", 0.02), binary(0, 600))
        assert few.status == "uncertain"
        assert "more labels are needed" in few.reason

    def test_slices_too_small_to_compare_are_uncertain(self):
        verdict = judged(Fair("brier", "town", 0.5), binary(0, 150, towns=("Oslo",)))
        assert verdict.status == "uncertain"
        assert verdict.reason.startswith("1 slices are large enough to compare")

    def test_a_slice_in_which_nobody_is_called_a_one_has_no_precision(self):
        given = binary(0, 2_000)
        rome = np.array(given.rows["town"].to_pylist()) == "Rome"
        none = np.where(rome, np.minimum(given.candidate, 0.45), given.candidate)
        verdict = judged(Fair("precision", "town", 0.5), replace(given, candidate=none))
        assert verdict.status == "uncertain"
        assert "precision is not defined in Rome" in verdict.reason

    @pytest.mark.parametrize("truth", [(1.0, 0.9), (0.97, 0.87), (0.5, 0.4)])
    @pytest.mark.parametrize(("rows", "ones"), [(96, 30), (400, 100)])
    def test_a_gap_as_large_as_the_limit_seldom_passes(self, rows, ones, truth):
        """Two slices whose recalls are known; at alpha 5 % one run in twenty at the most."""
        rng, wrong = np.random.default_rng(0), 0
        y = np.tile(np.arange(rows) < ones, 2).astype(float)
        town = np.repeat(["Oslo", "Rome"], rows)
        for _ in range(100):
            hit = rng.random(2 * rows) < np.repeat(truth, rows)
            order = rng.permutation(2 * rows)
            p = np.where(y * hit > 0, 0.9, 0.1)[order]
            given = answers({"town": town[order]}, y[order], p, p)
            found = assessed(BASE, given, [Fair("recall", "town", 0.1)], BRIER, seed=0)
            wrong += found.findings[0].high <= 0.1
        assert wrong <= 9

    @pytest.mark.parametrize("metric", ["accuracy", "roc_auc", "log_loss"])
    def test_the_gap_is_that_of_the_metric_of_each_slice(self, metric):
        given = binary(3, 2_000, towns=("Oslo", "Rome", "Bonn"))
        found = assessed(BASE, given, [Fair(metric, "town", 0.1)], loss_function("brier"), seed=0)
        town = np.array(given.rows["town"].to_pylist())
        each = [
            named(metric).value(given.y[town == t], given.candidate[town == t]) for t in set(town)
        ]
        assert found.findings[0].value == pytest.approx(max(each) - min(each))


class TestCalibrated:
    def test_probabilities_that_come_true_pass_and_others_do_not(self):
        rng = np.random.default_rng(0)
        p = rng.random(5_000)
        y = (rng.random(5_000) < p).astype(float)
        rows = {"x": p, "hour": p}
        assert judged(Calibrated(0.03), answers(rows, y, None, p)).status == "passed"
        bold = answers(rows, y, None, np.clip(1.6 * (p - 0.5) + 0.5, 0, 1))
        assert judged(Calibrated(0.03), bold).status == "failed"
        few = answers({k: v[:300] for k, v in rows.items()}, y[:300], None, p[:300])
        verdict = judged(Calibrated(0.03), few)
        assert verdict.status == "uncertain"
        assert "more labels are needed" in verdict.reason

    def test_the_estimate_has_little_bias_and_the_bound_keeps_its_rate(self):
        """The plain estimate of 500 calibrated rows is 0.04 at about."""
        rng, values, over = np.random.default_rng(1), [], []
        for seed in range(80):
            p = rng.random(500)
            y = (rng.random(500) < p).astype(float)
            gate = Calibrated(0.1)
            given = answers({"x": p, "hour": p}, y, None, p)
            found = assessed(BASE, given, [gate], loss_function("brier"), seed=seed).findings[0]
            values.append(found.value)
            over.append(found.low > 0.03)
        assert np.mean(values) < 0.03
        assert np.mean(over) <= 0.05

    def test_answers_that_are_no_probabilities_are_uncertain(self):
        rng = np.random.default_rng(0)
        given = answers({"x": rng.random(200), "hour": rng.random(200)}, *rng.normal(size=(3, 200)))
        verdict = judged(Calibrated(), given, loss="squared_error")
        assert (verdict.status, verdict.reason) == (
            "uncertain",
            "answers that are no probabilities have no calibration",
        )


def test_answers_out_of_bounds_are_refused():
    given = binary()
    assert judged(Output(), given).status == "passed"
    wild = given.candidate.copy()
    wild[7] = 1.2
    verdict = judged(Output(), replace(given, candidate=wild))
    assert verdict.status == "failed"
    assert "1 of them outside of 0 to 1" in verdict.reason
    assert "to 1.2 on 1000 rows" in verdict.reason


class TestNoLeak:
    def frame(self, y, rng, **columns):
        return pd.DataFrame({"noise": rng.normal(size=len(y)), **columns})

    @pytest.mark.parametrize("classes", [2, 0, 3])
    def test_the_power_of_a_feature_is_that_of_its_ranks(self, classes):
        rng = np.random.default_rng(0)
        y = rng.normal(size=800) if not classes else rng.integers(0, classes, 800).astype(float)
        x = -np.exp(y + rng.normal(size=800))
        power, name = strongest_feature(self.frame(y, rng, x=x), y, classes=classes)
        if classes == 0:
            expected = abs(stats.spearmanr(x, y).statistic)
        elif classes == 2:
            expected = 1 - reference.roc_auc_score(y, x)
        else:
            each = [reference.roc_auc_score(y == k, x) for k in range(3)]
            expected = max(max(a, 1 - a) for a in each)
        assert (power, name) == (pytest.approx(expected), "x")

    @pytest.mark.parametrize(
        ("leak", "named"),
        [
            (lambda y, rng: 1 - y, "leak"),
            (lambda y, rng: y + 0.01 * rng.normal(size=len(y)), "leak"),
            (lambda y, rng: np.where(y == 1, "won", "lost"), "leak"),
            (lambda y, rng: np.where(y == 1, np.nan, 3.0), "leak (whether it is missing)"),
            (lambda y, rng: y.astype(bool), "leak"),
            (lambda y, rng: pd.to_datetime("2024-01-01") + pd.to_timedelta(y, "D"), "leak"),
            (lambda y, rng: pd.to_timedelta(y + rng.random(len(y)) / 2, "D"), "leak"),
        ],
    )
    def test_a_feature_that_is_the_label_in_some_guise_is_named(self, leak, named):
        given, rng = binary(0, 600), np.random.default_rng(1)
        frame = self.frame(given.y, rng, leak=leak(given.y, rng))
        verdict = judged(NoLeak(), replace(given, build=lambda rows: frame))
        assert verdict.status == "failed"
        assert f"feature '{named}' alone ranks the labels with 1.000" in verdict.reason

    def test_strong_features_are_no_leak_and_names_of_rows_are_not_ranked(self):
        given, rng = binary(0, 600), np.random.default_rng(1)
        columns = {
            "strong": given.y + 0.5 * rng.normal(size=600),
            "id": [f"row {i}" for i in range(600)],
            "constant": 1.0,
            "nothing": np.nan,
        }
        frame = self.frame(given.y, rng, **columns)
        verdict = judged(NoLeak(), replace(given, build=lambda rows: frame))
        assert verdict.status == "passed"
        assert "'strong'" in verdict.reason

    @pytest.mark.parametrize("texts", [5, 20, 50, 90])
    @pytest.mark.parametrize(("classes", "most"), [(2, 0.8), (0, 0.6)])
    def test_texts_without_a_meaning_rank_few_rows_no_better_than_chance_does(
        self, texts, classes, most
    ):
        rng = np.random.default_rng(0)
        for _ in range(40):
            y = rng.normal(size=100)
            y = (y > 0.5).astype(float) if classes else y
            frame = pd.DataFrame({"c": rng.integers(0, texts, 100).astype(str)})
            assert strongest_feature(frame, y, classes=classes)[0] < most

    def test_a_text_that_is_the_label_is_found_among_rare_ones(self):
        y = np.repeat([0.0, 1.0], 150)
        texts = np.where(y == 1, "refunded", "paid").astype(object)
        texts[::10] = [f"note {i}" for i in range(30)]
        assert strongest_feature(pd.DataFrame({"c": texts}), y, classes=2)[0] > 0.98

    def test_too_few_rows_are_uncertain(self):
        assert judged(NoLeak(), binary(n=90)).status == "uncertain"
        verdict = judged(NoLeak(), binary(n=300, share=0.05))
        assert verdict.status == "uncertain"
        assert "of the rarest class, 30 can decide: about" in verdict.reason


CHECKS = """
    def calm(evaluation, answers):
        spread = abs(answers.candidate - answers.champion).max()
        return spread < 2, f"moved by up to {spread:.1f}, {len(answers.frame)} rows"

    def no(evaluation, answers):
        return evaluation.metric("brier").value < 0

    def unclear(evaluation, answers):
        return "maybe"

    def fails(evaluation, answers):
        raise KeyError("town")
"""


class TestCustom:
    @pytest.fixture
    def check(self, user_module):
        name = user_module(CHECKS)
        return lambda function: Custom(f"{name}:{function}")

    def test_a_function_of_the_user_decides_and_says_why(self, check):
        verdict = judged([check("calm"), check("no")], binary())
        assert [c.status for c in verdict.checks] == ["passed", "failed"]
        assert "says yes: moved by up to" in verdict.checks[0].reason
        assert verdict.checks[0].reason.endswith("1000 rows")
        assert verdict.checks[1].reason.endswith(":no says no")

    @pytest.mark.parametrize(
        ("function", "says"),
        [
            ("unclear", "gave 'maybe'; it has to give True or False"),
            ("fails", "raised KeyError: 'town'"),
            ("absent", "defines no function 'absent'"),
        ],
    )
    def test_one_that_goes_wrong_is_named(self, check, function, says):
        with pytest.raises(UserCodeError, match=says) as caught:
            judged(check(function), binary())
        assert f"check {check(function).check}" in str(caught.value)


OWN = """
    import numpy as np

    def cost(y, p):
        return np.where(y > 0.5, 5 * (p < 0.5), p >= 0.5)

    def gini(y, p):
        order = np.argsort(np.argsort(p))
        n1 = y.sum()
        return 2 * ((order[y > 0.5] + 1).sum() - n1 * (n1 + 1) / 2) / (n1 * (len(y) - n1)) - 1

    gini.greater_is_better = True

    def gap(y, p):
        if not 0 < y.sum() < len(y):
            raise ZeroDivisionError("one class only")
        return p[y > 0.5].mean() - p[y < 0.5].mean()

    gap.greater_is_better = True

    def thief(y, p):
        p[:] = y
        return 1.0
"""


def test_metrics_of_the_user_are_judged_as_those_of_ours(user_module):
    name = user_module(OWN)
    cost, gini = f"{name}:cost", f"{name}:gini"
    good, bad = binary(0, 1_000, skill=(1.0, 1.6)), binary(0, 1_000, skill=(1.6, 0.6))
    gates = [Better(cost), Better(gini), AtMost(cost, 1.0), AtLeast(gini, 0.2)]
    assert [c.status for c in judged(gates, good).checks] == ["passed"] * 4
    worse = [NotWorse(cost), NotWorse(gini), NotWorse(gini, by="town"), AtLeast(gini, 0.9)]
    assert [c.status for c in judged(worse, bad).checks] == ["failed"] * 4
    found = compare_by(named("roc_auc"), good.y, good.champion, good.candidate, seed=0)
    own = judged([Better(gini)], good).checks[0].reason
    assert f"{2 * found.difference:+.4f}" in own


def test_a_users_number_that_some_resamples_leave_undefined_is_judged_on_the_others(user_module):
    gap = f"{user_module(OWN)}:gap"
    y = np.zeros(1_000)
    y[500:540] = 1  # in one stretch: a resample of blocks may hold none of them
    p = np.clip(0.2 + 0.5 * y + 0.1 * np.random.default_rng(0).normal(size=1_000), 0, 1)
    town = np.where(np.arange(1_000) < 300, "Oslo", "Rome")
    given = answers({"town": town}, y, p * 0.99, p)
    gates = [AtLeast(gap, 0.1), NotWorse(gap, margin=0.1), NotWorse(gap, by="town", margin=0.1)]
    checks = judged(gates, given).checks
    assert [c.status for c in checks] == ["passed", "passed", "uncertain"]
    assert "not defined on these rows" in checks[2].reason
    assert judged(Fair(gap, "town", 0.5), given).status == "uncertain"


def test_a_metric_of_the_user_cannot_change_the_answers(user_module):
    given = binary()
    kept = given.candidate.copy()
    with pytest.raises(UserCodeError, match="thief raised ValueError: assignment destination is"):
        judged(AtMost(f"{user_module(OWN)}:thief", 5.0), given)
    assert (given.candidate == kept).all()


@pytest.mark.parametrize("wrong", [-1.0, 0.5, 100.0])
def test_a_label_of_the_holdout_that_is_no_class_is_named(wrong):
    given = binary()
    with pytest.raises(ConfigurationError, match=f"1 of 1000 labels .* such as {wrong:g}: brier"):
        judged([NotWorse(), AtLeast("roc_auc", 0.6)], replace(given, y=np.r_[given.y[:-1], wrong]))


def test_a_standard_against_the_direction_of_a_users_metric_is_refused(user_module):
    name = user_module(OWN)
    for gate, says in (
        (AtLeast(f"{name}:cost", 0.5), "less is better.*write AtMost"),
        (AtMost(f"{name}:gini", 0.5), "more is better.*write AtLeast"),
    ):
        with pytest.raises(ConfigurationError, match=says):
            judged(gate, binary())


def test_a_score_of_classes_does_not_go_with_quantities():
    given = replace(binary(), y=np.random.default_rng(0).normal(size=1_000))
    with pytest.raises(ConfigurationError, match="AtLeast: roc_auc is of classes, and squared"):
        judged(AtLeast("roc_auc", 0.5), given, loss="squared_error")


def test_a_candidate_that_answers_as_the_champion_does_is_for_people_to_decide():
    given = binary()
    verdict = judged(NotWorse("brier"), replace(given, champion=given.candidate))
    assert verdict.status == "uncertain"
    assert "exactly the answers of champion m@1 on all rows: promote it only for" in verdict.reason


def test_the_champion_itself_is_refused_whatever_the_gates():
    given = binary()
    same = replace(BASE, same="files")
    verdict = judged(NotWorse("brier"), replace(given, champion=given.candidate), base=same)
    assert verdict.status == "failed"
    assert verdict.reason == "m@2 has the files of champion m@1: nothing is to be promoted"


def several(seed, n=1_500, skill=(1.5, 1.5), classes=3):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    said = [np.exp(rng.normal(size=(n, classes)) + s * np.eye(classes)[y]) for s in skill]
    champion, candidate = (p / p.sum(axis=1, keepdims=True) for p in said)
    rows = {"x": y + rng.normal(size=n), "hour": rng.random(n), "town": rng.choice(["a", "b"], n)}
    return answers(rows, y.astype(float), champion, candidate)


class TestSeveralClasses:
    GATES = (
        AtLeast("roc_auc", 0.7),
        NotWorse("log_loss"),
        NotWorse("f1", margin=0.05),
        NotWorse("accuracy", by="town", margin=0.1),
        Fair("recall", "town", 0.2),
        Calibrated(0.5),
        Output(),
        NoLeak(),
    )

    def test_every_gate_works_with_them(self):
        good = several(0, 4_000, (1.0, 1.6))
        assert [c.status for c in judged([*self.GATES], good).checks] == ["passed"] * 8
        bad = several(0, 4_000, (1.6, 0.2))
        found = judged([*self.GATES], bad)
        assert [c.status for c in found.checks][:4] == ["failed"] * 4

    def test_a_class_that_the_champion_does_not_know_has_no_chance_in_its_eyes(self):
        given = several(0, 900)
        two = given.champion[:, :2] / given.champion[:, :2].sum(axis=1, keepdims=True)
        for old in (two[:, 1], np.pad(two, ((0, 0), (0, 1)))):
            found = assessed(
                BASE,
                replace(given, champion=old),
                [NotWorse("brier")],
                loss_function("brier"),
                seed=0,
            )
            wide = np.pad(two, ((0, 0), (0, 1)))
            assert found.comparisons[0].champion == pytest.approx(
                loss_function("brier")(given.y, wide).mean()
            )
