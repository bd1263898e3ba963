"""
Bad models, made on purpose: would the gates let one of them pass?

They are made of the champion's own rows, features and training function: one that says the same of
every row, one that learnt from shuffled labels, one that is shown the label, and the champion.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.data.selection import Labelled, Selection
from airflow_mlops.core.errors import ConfigurationError, ModelNotFoundError
from airflow_mlops.core.evaluation.evaluation import Evaluation
from airflow_mlops.core.evaluation.gate import Verdict, judge
from airflow_mlops.core.evaluation.measuring import Answers, assessed
from airflow_mlops.core.evaluation.offline import predictions, usable_rows
from airflow_mlops.core.metrics import Floats, indicators
from airflow_mlops.core.refs import ModelRef, Recipe
from airflow_mlops.core.scratch import scratch_folder
from airflow_mlops.core.training.functions import Functions
from airflow_mlops.core.training.models import EVALUATION, ModelStore
from airflow_mlops.core.training.own_metrics import load_loss
from airflow_mlops.policy import Gate, Loads

LEAK = "planted_leak"


@dataclass(frozen=True, slots=True)
class Planted:
    """
    A bad model.

    :param name: what is wrong with it.
    :param answers: what it says of the hold-out, beside the champion.
    :param same: whether its files are those of the champion.
    """

    name: str
    answers: Answers
    same: Literal["", "files"] = ""


@dataclass(frozen=True, slots=True)
class Tried:
    """
    What the gates said of a bad model.

    :param planted: what is wrong with it.
    """

    planted: str
    verdict: Verdict

    @property
    def caught(self) -> tuple[str, ...]:
        """Gates that were the reason for the verdict; none if it passed."""
        if self.verdict.status == "passed":
            return ()
        return tuple(c.gate for c in self.verdict.checks if c.counts == self.verdict.status)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        caught = {"planted": self.planted, "caught_by": list(self.caught)}
        return caught | {"verdict": self.verdict.to_dict()}


def plant(functions: Functions, holdout: Labelled, champion: Floats) -> Iterator[Planted]:
    """
    Make bad models from a recipe.

    :param functions: the recipe's functions, with the rows to learn from.
    :param holdout: later labelled rows.
    :param champion: what the champion says of them, one number or one per class for each row.
    :raises UserCodeError: if a function of the user fails.
    """
    y, late, seed = functions.rows.y, holdout.y, functions.seed
    features, asked = functions.built(), functions.features_of(holdout.frame)

    def fitted(learn: Any, labels: Floats, ask: Any) -> Answers:
        given = functions.answers(functions.estimator(learn, labels), ask)
        said = np.asarray(given, dtype=np.float64)
        return Answers(holdout.rows, late, said, champion, lambda _: ask)

    share = indicators(y, champion.shape[1]).mean(axis=0) if champion.ndim == 2 else y.mean()
    constant = np.broadcast_to(share, champion.shape).copy()
    yield Planted(
        "constant: the same answer to every row",
        Answers(holdout.rows, late, constant, champion, lambda _: asked),
    )
    shuffled = np.random.default_rng(seed).permutation(y)
    yield Planted("shuffled: learnt from labels in disorder", fitted(features, shuffled, asked))
    shown, known = features.assign(**{LEAK: y}), asked.assign(**{LEAK: late})
    yield Planted("leak: a feature that is the label", fitted(shown, y, known))
    same = Answers(holdout.rows, late, champion, champion, lambda _: asked)
    yield Planted("champion: the champion itself", same, "files")


def try_gates(
    gates: Sequence[Gate],
    functions: Functions,
    holdout: Labelled,
    champion: Floats,
    *,
    metric: str,
    name: str,
) -> tuple[Tried, ...]:
    """
    Judge bad models as a candidate is judged; nothing is saved, so ``Loads`` is left out.

    :param gates: conditions of the policy.
    :param functions: the recipe's functions, with the rows to learn from.
    :param holdout: later labelled rows.
    :param champion: what the champion says of them.
    :param metric: the per-row loss of the policy.
    :param name: the champion, ``name@version``.
    """
    loss, asked = load_loss(metric), [g for g in gates if not isinstance(g, Loads)]
    found, span = [], holdout.selection
    for planted in plant(functions, holdout, champion):
        who = planted.name.partition(":")[0]
        identity = (f"planted {who}", name, 0, span.since, span.until)
        base = Evaluation(*identity, (), (), None, same=planted.same)
        judged = assessed(base, planted.answers, asked, loss, seed=0)
        counts = any(gate.fail_on != "never" for gate in asked)
        verdict = judge(asked, judged) if counts else Verdict(())
        found.append(Tried(planted.name, verdict))
    return tuple(found)


def try_gates_of(
    store: ModelStore,
    datasets: DatasetStore,
    champion: ModelRef,
    gates: Sequence[Gate],
    *,
    metric: str,
) -> tuple[Tried, ...]:
    """
    Make bad models of a champion's recipe, and judge them on the rows it was judged on.

    :param champion: the version that serves.
    :param gates: conditions of the policy.
    :param metric: the per-row loss of the policy.
    :raises ConfigurationError: if it never was judged.
    :raises DatasetNotFoundError: if its rows are gone.
    """
    try:
        judged = json.loads(store.document(store.get(champion).run_id, EVALUATION))
    except ModelNotFoundError as error:
        msg = f"{champion} was never judged, so there is no hold-out to judge others on: {error}"
        raise ConfigurationError(msg) from error
    with store.opened(champion) as model, scratch_folder("train") as scratch:
        recipe = Recipe.from_dict(model.about["recipe"])
        sets = recipe.data, recipe.labels, recipe.label
        holdout = Selection(*sets, judged["since"], judged["until"]).read(datasets)
        holdout = holdout.filter(usable_rows(model, holdout.rows, holdout.key))
        learn = Selection(*sets, recipe.since, recipe.until).read(datasets)
        functions = _functions(model, recipe, learn, scratch)
        said = predictions(model, holdout.frame, champion)
        named = {"metric": metric, "name": str(champion)}
        return try_gates(gates, functions, holdout, said, **named)


def _functions(model: Any, recipe: Recipe, rows: Labelled, scratch: Path) -> Functions:
    """Load the archived functions of a version."""
    folder, train = model.folder, recipe.train.partition(":")[0]
    return Functions.load(
        rows,
        CodeArchive.open(folder / "features", f"{recipe.features}:{model.about['build']}"),
        CodeArchive.open(folder / "train", f"{train}:{model.about['fit']}"),
        scratch,
        params=recipe.params,
        seed=recipe.seed,
    )
