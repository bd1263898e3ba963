"""docs/metadata.md names everything that is written about a model, and nothing else."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from airflow.sdk import DAG, conf

from airflow_mlops.core.refs import ModelRef
from airflow_mlops.operators._base import airflow_url, run_url
from airflow_mlops.operators.reproduction import ReproduceModelOperator
from tests.operators.running import run

pytestmark = [pytest.mark.airflow, pytest.mark.services]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metadata.md").read_text("utf-8")
HEAD = ["name", "where", "what it says", "written by", "when"]
PLACES = {
    "run tag", "run param", "run metric", "run input", "run file", "run field",
    "version tag", "version field", "model tag", "model alias",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One name of the page; ``<...>`` in it stands for any name."""

    name: str
    place: str
    writers: str
    when: str

    @property
    def pattern(self) -> str:
        parts = re.split(r"<[^>]+>", self.name)
        return ".+".join(re.escape(part) for part in parts)

    def among(self, names) -> bool:
        return any(re.fullmatch(self.pattern, name) for name in names)


def rows() -> list[Row]:
    found = []
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells == HEAD or set(line) <= set("|- "):
            continue
        names, places, _, writers, when = cells
        for name in re.findall(r"`([^`]+)`", names):
            found += [Row(name, place, writers, when) for place in places.split(", ")]
    return found


@pytest.fixture
def written(market, model_store):
    """Place -> names that a life left behind: trained, judged, promoted and made again."""
    market.deliver(0, 5, labels=(0, 4))
    dags = market.lifecycle(params={"C": 0.5}).dags
    person = {"answer": lambda request: ("promote", {"note": "fine", "params": {}}, "ml-lead")}
    assert [run(dags[0]).state, run(dags[1]).state] == ["success"] * 2
    assert run(dags[2], **person).state == "success"
    with DAG(f"{market.name}__again", schedule=None) as again:
        ReproduceModelOperator(task_id="reproduce", model=market.name)
    assert run(again).state == "success"
    return names_of(model_store, ModelRef(market.name, 1))


def names_of(model_store, ref) -> dict[str, set[str]]:
    client = model_store.client
    version = client.get_model_version(ref.name, str(ref.version))
    model, trained = client.get_registered_model(ref.name), client.get_run(version.run_id)
    files, folders = set(), [""]
    while folders:
        for file in client.list_artifacts(version.run_id, folders.pop()):
            (folders.append if file.is_dir else files.add)(file.path)
    return {
        "run tag": set(trained.data.tags),
        "run param": set(trained.data.params),
        "run metric": set(trained.data.metrics),
        "run input": inputs_of(trained),
        "run file": files,
        "run field": {name for name, value in dict(trained.info).items() if value},
        "version tag": set(version.tags),
        "version field": {name for name, value in dict(version).items() if value},
        "model tag": set(model.tags),
        "model alias": set(model.aliases),
    }


def inputs_of(trained) -> set[str]:
    """Names that every input of a run has, with those inside its source."""
    found = []
    for part in trained.inputs.dataset_inputs:
        fields = {k for k, v in dict(part.dataset).items() if v} - {"source"}
        source = {f"source.{k}" for k, v in json.loads(part.dataset.source).items() if v}
        found.append(fields | source | {tag.key for tag in part.tags if tag.value})
    assert len(found) == 2
    assert found[0] == found[1]
    return found[0]


def test_the_page_can_be_read():
    assert len(rows()) > 80
    assert {row.place for row in rows()} == PLACES
    for row in rows():
        assert re.match(r"always|from `\w+` on|if ", row.when), row
    seen = [(row.name, row.place) for row in rows()]
    assert len(seen) == len(set(seen)), "a name has one line for each place"


def test_everything_that_is_written_is_on_the_page_and_the_other_way_round(written):
    fields = {"run field", "version field"}  # most of MLflow's own are nobody's concern
    missing = {
        (place, name)
        for place in PLACES - fields
        for name in written[place]
        if not any(re.fullmatch(r.pattern, name) for r in rows() if r.place == place)
    }
    assert not missing, "describe it in docs/metadata.md"
    promised = [row for row in rows() if not row.when.startswith("if ")]
    broken = [row for row in promised if not row.among(written[row.place])]
    assert not broken, "docs/metadata.md promises it"
    assert "airflow.run_url" in written["run tag"] & written["version tag"]
    assert "params.C" in written["run param"]


def test_what_is_written_sometimes_is_a_name_of_the_package():
    code = "\n".join(p.read_text("utf-8") for p in (ROOT / "airflow_mlops").rglob("*.py"))
    for row in rows():
        if row.when.startswith("if ") and "<" not in row.name:
            assert f'"{row.name}"' in code, row


def test_who_writes_it_is_an_operator_of_the_package():
    code = "\n".join(p.read_text("utf-8") for p in (ROOT / "airflow_mlops").rglob("*.py"))
    named = {name for row in rows() for name in re.findall(r"\w+Operator", row.writers)}
    assert len(named) >= 7
    assert all(f"class {name}(" in code for name in named)


def test_mlflow_and_airflow_lead_to_each_other(market, model_store):
    market.deliver(0, 5, labels=(0, 4))
    dags = market.lifecycle().dags
    run(dags[0])
    done = run(dags[1])
    trained = done.value("train")
    tags = model_store.run_tags(trained["run_id"])
    assert tags["airflow.run_url"].startswith(
        f"http://airflow.example.com/dags/{market.name}__train/runs/manual__"
    )
    version = model_store.get(ModelRef.parse(trained["model"]))
    assert version.tags["airflow.run_url"] == tags["airflow.run_url"]
    assert trained["run_id"] in done.values["train"]["mlops_run_url"]
    assert f"models/{market.name}/versions/1" in done.values["train"]["mlops_model_url"]


def test_an_airflow_without_an_address_writes_no_link(monkeypatch):
    monkeypatch.setattr(conf, "get", lambda *names, fallback=None: fallback)

    class Ti:
        dag_id, run_id = "d", "r"

    assert (airflow_url(), run_url({"ti": Ti})) == ("", "")
