"""What goes on record about a labelled window, and the line that people read."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from airflow_mlops.core.metrics import Estimate
from airflow_mlops.core.monitoring.served import Measured, ServedWindow, Waiting, p_more
from airflow_mlops.core.monitoring.slices import SliceLoss
from airflow_mlops.core.monitoring.unlabelled import Guess

SPREAD = np.tile([-0.004, 0.004], 4)


def window(index=51, loss=0.2134, probe=0.2101, **more):
    usual = {
        "served": 336,
        "labels": "ctd1-a",
        "labelled_until": "2024-01-08T00:00:00+00:00",
        "base": 0.198,
        "metrics": (Estimate("brier", loss, loss - 0.0094, loss + 0.0096, 333),),
        "bins": ((1.0, 0.5, 1.0),) * 10,
    }
    blocks = [tuple(float(x) for x in value + SPREAD) if value else () for value in (loss, probe)]
    span = ("2024-01-01T00:00:00+00:00", "2024-01-08T00:00:00+00:00")
    return ServedWindow("m@1", index, *span, "brier", 333, *blocks, **{**usual, **more})


def guess(index, value):
    return Guess("m@1", index, "", "", "brier", 336, value, 0.7, 3)


def test_the_line_says_how_it_does_how_it_did_and_what_would_be_better():
    fine = replace(
        window(50), champion=(0.2,) * 8, metrics=(Estimate("brier", 0.2, 0.19, 0.21, 9),)
    )
    found = Measured(
        (replace(fine, index=49), fine, window()), (), {50: guess(50, 0.212), 51: guess(51, 0.208)}
    )
    body = found.body(found.windows[-1])
    assert body["line"] == (
        "window 51 (99% labelled, labels up to 2024-01-08): m@1 brier 0.2134 [0.2040, 0.2230]; "
        "0.1980 in its backtest: +0.0154 [+0.0060, +0.0250], +7.8%; surely worse by "
        "5% in 1 of 3 windows; a fresh small model 0.2101; estimate without labels 0.2080 "
        "(past error 0.0120); see airflow mlops report m --performance"
    )
    assert body["status"] == "warn"
    body = found.body(fine)
    assert (body["status"], "surely worse by 5% in 0 of 2 windows" in body["line"]) == ("ok", True)
    assert "(no past error yet)" in body["line"]


def test_slices_and_waiting_windows_are_named():
    worse = SliceLoss("day", "3", 60, 0.27, 0.21, 60, 0.001, decayed=True)
    waiting = tuple(Waiting(index, 40, 168) for index in (50, 52, 53, 54, 55))
    sliced = window(loss=0.198, slices=(worse, replace(worse, value="4", decayed=False)))
    body = Measured((sliced,), waiting).body(sliced)
    assert body["status"] == "warn"
    assert "slices that decayed: day 3: 0.2700 (was 0.2100) on 60 rows; window 52" in body["line"]
    assert "window 52 waits: 40 of 168 rows have a label, 24%" in body["line"]
    assert "1 more windows wait" in body["line"]
    assert len(body["waiting"]) == 4


def test_what_is_on_record_comes_back_also_from_before_it_knew_as_much():
    new = window(slices=(SliceLoss("day", "3", 60, 0.27),))
    body = json.loads(json.dumps(Measured((new,)).body(new)))
    assert ServedWindow.from_dict(body) == new
    names = ("model", "index", "since", "until", "metric", "rows", "champion", "probe")
    old = ServedWindow.from_dict({name: body[name] for name in names})
    assert (old.champion, old.base, old.metrics, old.decayed) == (new.champion, None, (), False)
    assert old.value == pytest.approx(0.2134)
    line = Measured((old,)).body(old)["line"]
    assert line == "window 51: m@1 brier 0.2134; a fresh small model 0.2101"


def test_without_its_challenger_a_window_says_why_and_keeps_all_else():
    alone = window(loss=0.198, probe=(), unprobed="challenger m:f raised ValueError: no")
    body = json.loads(json.dumps(Measured((alone,)).body(alone)))
    assert ServedWindow.from_dict(body) == alone
    assert body["status"] == "warn"
    assert "no fresh small model beside it: challenger m:f raised ValueError: no" in body["line"]
    assert "--performance" not in body["line"]
    assert alone.probe_loss != alone.probe_loss


def test_decay_is_a_t_test_of_the_blocks():
    losses = window().losses
    found = ttest_1samp(losses, 0.21, alternative="greater")
    assert p_more(losses, 0.21) == pytest.approx(found.pvalue)
    assert window().decayed
    assert not window(base=0.21).decayed
