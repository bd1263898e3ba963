"""What the demo shows at its end: a table, a plot, and the same as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.models import ModelStore
from airflow_mlops.local import Stack
from include.electricity.deliveries import OPENING_ROW, WEEK, Deliveries

MODEL = "electricity"


@dataclass(frozen=True)
class Week:
    """
    One served week.

    :param rows: rows that were scored.
    :param champion: version that scored them.
    :param brier_champion: Brier score of the served predictions.
    :param brier_static: Brier score of the first champion, had nobody ever retrained.
    """

    week: int
    rows: int
    decision: str
    reason: str
    champion: int = 0
    brier_champion: float = float("nan")
    brier_static: float = float("nan")


@dataclass(frozen=True)
class Report:
    """
    The whole story in numbers.

    :param champions: every promotion and rollback: version, who, why.
    :param refused: every refusal: version and reason.
    """

    weeks: tuple[Week, ...]
    champions: tuple[Mapping[str, Any], ...]
    refused: tuple[Mapping[str, Any], ...]
    entries: int
    links: Mapping[str, str]

    @classmethod
    def of(
        cls, stack: Stack, ledger: Ledger, deliveries: Deliveries, weeks: Sequence[Week]
    ) -> Self:
        """Measure the served predictions, and those of the first champion on the same rows."""
        state = ledger.state(MODEL)
        served = _served(stack)
        static = _static(stack, deliveries, state, [w.week for w in weeks])
        measured = []
        for week in weeks:
            truth = deliveries.truth(week.week)
            ids = deliveries.week(week.week).index
            version = max(served[i][0] for i in ids)
            ours = np.array([served[i][1] for i in ids])
            brier = float(((ours - truth) ** 2).mean())
            other = float(((static[week.week] - truth) ** 2).mean())
            measured.append(
                replace(week, champion=version, brier_champion=brier, brier_static=other)
            )
        return cls(
            tuple(measured),
            tuple(map(_fact, (e for e in state.entries if e.op in ("promote", "rollback")))),
            tuple(map(_fact, (e for e in state.entries if e.op == "refuse"))),
            len(state.entries),
            _links(stack, state),
        )

    @property
    def brier(self) -> dict[str, float]:
        """Mean Brier scores over all served weeks."""
        champion = float(np.mean([w.brier_champion for w in self.weeks]))
        return {
            "champion": champion,
            "static": float(np.mean([w.brier_static for w in self.weeks])),
        }

    def to_dict(self, seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "seconds": {name: round(value, 1) for name, value in seconds.items()},
            "weeks": [asdict(week) for week in self.weeks],
            "champions": list(self.champions),
            "refused": list(self.refused),
            "brier": self.brier,
            "ledger": {"entries": self.entries, "verified": True},
            "links": dict(self.links),
        }

    def show(self, console: Console, seconds: Mapping[str, float], folder: Path) -> None:
        """Print the table, draw the plot, write the JSON."""
        table = Table("week", "rows", "champion", "Brier", "never retrained", "decision")
        for w in self.weeks:
            numbers = (f"{w.brier_champion:.4f}", f"{w.brier_static:.4f}")
            table.add_row(str(w.week), str(w.rows), f"@{w.champion}", *numbers, w.decision)
        console.print(table)
        mean = self.brier
        gain = 1 - mean["champion"] / mean["static"]
        console.print(
            f"Brier {mean['champion']:.4f} against {mean['static']:.4f} of a model that is never "
            f"retrained ({gain:+.1%} better); {self.entries} entries of the ledger verified"
        )
        plot = folder / "demo-report.png"
        draw(self.weeks, plot)
        path = folder / "demo-report.json"
        path.write_text(json.dumps(self.to_dict(seconds), indent=1), "utf-8")
        for name, link in {**self.links, "plot": str(plot), "report": str(path)}.items():
            console.print(f"  {name:<10}{link}", highlight=False, soft_wrap=True)
        times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
        console.print(times.replace("_", " "))


def draw(weeks: Sequence[Week], path: Path) -> None:
    """Draw the two curves, with a mark where another champion took over."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    numbers = [w.week for w in weeks]
    figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
    axes.plot(numbers, [w.brier_static for w in weeks], color="0.6", label="never retrained")
    axes.plot(numbers, [w.brier_champion for w in weeks], color="C0", label="champion")
    changes = [b for a, b in pairwise(weeks) if a.champion != b.champion]
    for week in changes:
        axes.axvline(week.week - 0.5, color="C2", linestyle=":", linewidth=1)
        axes.annotate(
            f"@{week.champion}",
            (week.week - 0.4, 1.0),
            xycoords=("data", "axes fraction"),
            va="top",
            color="C2",
        )
    axes.axvline(
        OPENING_ROW / WEEK, color="C3", linewidth=1, alpha=0.6, label="interstate market opens"
    )
    axes.set(xlabel="week", ylabel="Brier score (less is better)")
    axes.set_title("Electricity: the champion and the model that is never retrained")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, ncols=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _served(stack: Stack) -> dict[int, tuple[int, float]]:
    """Row -> version and prediction that was served."""
    observations = Observations(stack.dsn("mlops"))
    return {int(key): (version, p) for key, version, p in observations.served(MODEL)}


def _static(
    stack: Stack, deliveries: Deliveries, state: State, weeks: Sequence[int]
) -> dict[int, NDArray[np.float64]]:
    """Week -> predictions of the first champion, which nobody ever retrained."""
    from mlflow import MlflowClient
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR

    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    first = next(e for e in state.entries if e.op == "promote")
    url = stack.urls["mlflow"]
    store = ModelStore(MlflowClient(tracking_uri=url, registry_uri=url))
    with store.opened(ModelRef(MODEL, first.version or 0)) as model:
        return {n: np.asarray(model.predict(deliveries.week(n))) for n in weeks}


def _fact(entry: Entry) -> dict[str, Any]:
    return {
        "version": entry.version,
        "op": entry.op,
        "by": entry.by,
        "at": entry.at,
        "reason": entry.reason,
    }


def _links(stack: Stack, state: State) -> dict[str, str]:
    airflow, mlflow = stack.urls["airflow"], stack.urls["mlflow"]
    stages = {
        stage: f"{airflow}/dags/{MODEL}__{stage}" for stage in ("monitor", "train", "rollout")
    }
    return {
        **stages,
        "model": f"{mlflow}/#/models/{MODEL}",
        "champion": f"{mlflow}/#/models/{MODEL}/versions/{state.champion}",
    }
