"""What is shown of rows beside a model: cases of changed decisions, cards of data, pages."""

import json
from collections.abc import Sequence
from dataclasses import replace

from airflow_mlops.core.data.datasets import DatasetStore
from airflow_mlops.core.deployment.cards import data_card, to_html
from airflow_mlops.core.errors import DatasetNotFoundError, ModelNotFoundError
from airflow_mlops.core.evaluation.flips import Flips
from airflow_mlops.core.refs import DatasetRef
from airflow_mlops.core.reports.flips import flips_page
from airflow_mlops.core.reports.page import note, page
from airflow_mlops.core.training import artifacts
from airflow_mlops.core.training.models import DATA, FLIPS, FLIPS_PAGE, ModelStore
from airflow_mlops.core.training.versions import ModelVersion

CARD, CARD_PAGE = "data-card.md", "data-card.html"
"""Artifacts of a run that describe its rows for people."""

PAGES = "monitoring"
"""Folder of a run with the pages of the monitors."""


def forget_cases(models: ModelStore, version: ModelVersion, keys: Sequence[str]) -> int:
    """
    Take single rows out of a version's report of changed decisions; what was counted stays.

    :return: number of rows that went.
    """
    try:
        found = Flips.from_dict(json.loads(models.document(version.run_id, FLIPS)))
    except ModelNotFoundError:
        return 0
    left = tuple(case for case in found.cases if case.key not in keys)
    gone = len(found.cases) - len(left)
    if gone:
        less = replace(found, cases=left)
        # The page first: as long as the numbers hold the rows, a call that was killed is repeated.
        models.log_document(version.run_id, FLIPS_PAGE, flips_page(less))
        models.log_document(version.run_id, FLIPS, json.dumps(less.to_dict(), indent=1))
    return gone


def redraw_card(models: ModelStore, datasets: DatasetStore, version: ModelVersion) -> None:
    """Describe the rows that a version learnt from as they are now, if they were described."""
    try:
        before = models.document(version.run_id, CARD)
        now = data_card(datasets.open(DatasetRef.parse(version.fact(DATA))))
    except (ModelNotFoundError, DatasetNotFoundError):
        return
    if now != before:
        # Here too: as long as the text is the old one, a call that was killed is repeated.
        models.log_document(version.run_id, CARD_PAGE, to_html(now))
        models.log_document(version.run_id, CARD, now)


def blank_pages(models: ModelStore, version: ModelVersion) -> None:
    """Replace the pages of the monitors: a picture may show the value of a single row."""
    text = page(
        f"{version.ref}: to be drawn again",
        "",
        "rows were forgotten on request, and this page showed values of rows",
        [note(f"To draw it again: airflow mlops report {version.ref.name} --drift")],
    )
    for path in artifacts.files(models.client, version.run_id, PAGES, str(version.ref)):
        if models.document(version.run_id, path) != text:
            models.log_document(version.run_id, path, text)
