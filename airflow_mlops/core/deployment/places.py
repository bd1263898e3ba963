"""
Every place that holds a key of a row, or a value: what becomes of it when a person is forgotten.

The report of ``airflow mlops forget`` is made of this list, ``docs/forgetting.md`` shows it, and a
test looks through all places for a person who was forgotten.
"""

from dataclasses import dataclass
from typing import Literal

Fate = Literal["erased", "elsewhere", "stays"]


@dataclass(frozen=True, slots=True)
class Place:
    """
    One place.

    :param name: what it is.
    :param holds: what it holds of a person.
    :param fate: ``erased`` by ``forget``; ``elsewhere``: by somebody else, who is told how;
        ``stays``: it cannot be reached.
    :param how: how it goes; or why it stays, and what can be done.
    """

    name: str
    holds: str
    fate: Fate
    how: str

    def __str__(self) -> str:
        return f"{self.name}: {self.how}"


PLACES = (
    Place(
        "dataset: files of rows",
        "keys and values",
        "erased",
        "written again in place without the rows, in every version, labels and rows as they "
        "arrived too",
    ),
    Place(
        "dataset: log",
        "least and greatest values of each file, also in checkpoints",
        "erased",
        "left out for the files that are written again; the checkpoint is written anew",
    ),
    Place(
        "dataset: sidecars and profiles",
        "counts and digests; least, greatest and frequent values of each window",
        "erased",
        "made anew from the rows that are left",
    ),
    Place(
        "dataset: notes of what is under way",
        "the keys that are being forgotten",
        "erased",
        "removed in the end; those of a call that was killed, by the next one of the same keys",
    ),
    Place(
        "`mlops.predictions`, `mlops.exposures`, `mlops.outcomes`",
        "key, entity, time, answer, what came of it",
        "erased",
        "deleted by key, exposures by entity too",
    ),
    Place(
        "`mlops.quarantine`",
        "rows that were set aside: key and all values",
        "erased",
        "deleted by key; reasons name no row",
    ),
    Place(
        "`mlops.observations`, `mlops.rewritten`",
        "findings of the monitors `contract` and `late`: keys and values as examples",
        "erased",
        "examples of everybody go, in findings that were written over too; counts stay",
    ),
    Place(
        "MLflow: `flips.json`, `flips.html`",
        "rows whose decision changes: key and values",
        "erased",
        "the rows are taken out, numbers stay",
    ),
    Place(
        "MLflow: `data-card.md`, `data-card.html`",
        "range and most frequent values of each column; no keys",
        "erased",
        "drawn anew from the rows that are left",
    ),
    Place(
        "MLflow: `monitoring/<page>`",
        "values that a column has, if there are few",
        "erased",
        "replaced by a note; the next finding draws its page anew, as does `airflow mlops report`",
    ),
    Place(
        "source of the rows",
        "the rows themselves",
        "elsewhere",
        "delete the rows there too, and first: the next snapshot would read them again",
    ),
    Place(
        "Airflow: XComs, forms, rendered fields",
        "single rows whose decision changes, as the form shows them; new values of a column",
        "elsewhere",
        "airflow db clean --clean-before-timestamp MOMENT --skip-archive --tables "
        "xcom,_xcom_archive,task_instance,task_instance_history",
    ),
    Place(
        "Airflow: logs of tasks",
        "keys and values as examples, and whatever user code prints",
        "elsewhere",
        "delete them below [logging] base_log_folder, or at the remote store",
    ),
    Place(
        "backups, archived tables, old versions of objects",
        "whatever was in them",
        "elsewhere",
        "let them expire, or forget again after they were brought back",
    ),
    Place(
        "MLflow: deleted runs",
        "whatever was in their files",
        "elsewhere",
        "mlflow gc removes their files; deleting a run or a version only hides them",
    ),
    Place(
        "temporary files of a killed task",
        "rows as they arrived, or a model's files",
        "elsewhere",
        "delete them below TMPDIR of the workers; a task that ends removes its own",
    ),
    Place(
        "MLflow: `model/`",
        "what was learnt; least and greatest values, the values of a column that has at most 50, "
        "answers to the newest 200 rows and the time of the first; no keys",
        "stays",
        "a model is signed as a whole: retrain, promote a version without the person, delete those "
        "that learnt from them",
    ),
    Place(
        "MLflow: `card.md`, `card.html`",
        "ranges and values as in `model/`",
        "stays",
        "it says what the signed model says, and goes with its run",
    ),
    Place(
        "MLflow: `evaluation.json`, metrics, params, tags",
        "sums over many rows; values that many rows share, as names of parts",
        "stays",
        "a sum tells of nobody alone",
    ),
    Place(
        "`mlops.decisions`",
        "counts, sums, spans of time, limits of parts of the rows; what people wrote as reasons",
        "stays",
        "the ledger is append-only, so it holds no key and no value of one row: write none",
    ),
    Place(
        "dataset: middle of a column, times",
        "the value around which profiles of numbers count, one near the median of the first load; "
        "first and newest time of a version",
        "stays",
        "all profiles have to add up; neither says whose it is",
    ),
)
"""All of them, in the order of the report."""


def unreached() -> tuple[str, ...]:
    """Say of every place that ``forget`` does not erase what can be done, or why nothing can."""
    return tuple(str(place) for place in PLACES if place.fate != "erased")
