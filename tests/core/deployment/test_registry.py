"""Who is champion: the ledger says so, the aliases follow, and nothing is promoted by accident."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from airflow_mlops.core.deployment.registry import ANCHOR, ModelRegistry
from airflow_mlops.core.errors import (
    ConcurrentPromotionError,
    ConfigurationError,
    KeyReusedError,
    LedgerLostError,
    ModelChangedError,
    ModelLostError,
    ModelNotFoundError,
    StaleCandidateError,
    UnavailableError,
)
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.models import DIGEST, RECIPE, ModelStore

pytestmark = pytest.mark.services


def aliases(registry, name):
    found = registry.models.client.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}


def assert_agree(registry, name):
    """The aliases and the anchor say what the ledger says."""
    state = registry.ledger.state(name)
    wanted = {
        "champion": state.champion,
        "previous": state.previous,
        "challenger": state.challenger,
    }
    assert aliases(registry, name) == {k: v for k, v in wanted.items() if v is not None}
    tags = registry.models.client.get_registered_model(name).tags
    assert tags[ANCHOR] == "{}:{}".format(*state.head)
    return state


@pytest.fixture
def promoted(registry, make_version, ask):
    """Two champions, one after the other."""
    refs = [make_version() for _ in range(2)]
    for number, ref in enumerate(refs):
        registry.promote(ref, ask(f"promote:{number}"), epoch=None, order=number)
    return refs


def test_a_promotion_is_one_entry_and_the_aliases_follow(registry, make_version, ask, model):
    ref = make_version()
    entry = registry.promote(ref, ask("k", auc=0.9), epoch=0, order=1)
    assert (entry.op, entry.version, entry.seq, entry.reason) == ("promote", 1, 1, "better")
    version = registry.models.get(ref)
    facts = {"run_id": version.run_id, "recipe": version.recipe, "digest": version.digest}
    assert entry.evidence == {"auc": 0.9, **facts}
    assert registry.champion(model) == ref
    assert_agree(registry, model)


def test_a_model_that_nobody_knows_has_no_champion(registry, model):
    assert registry.champion(model) is None
    assert registry.reconcile(model) == ()


def test_the_same_key_gets_the_same_answer_and_no_second_entry(registry, promoted, ask, model):
    again = registry.promote(promoted[0], ask("promote:0"), epoch=None, order=0)
    assert again.seq == 1
    assert registry.champion(model) == promoted[1]
    assert len(assert_agree(registry, model).entries) == 2


def test_a_key_of_another_promotion_is_refused(registry, promoted, ask, make_version):
    with pytest.raises(KeyReusedError, match="'promote:0'"):
        registry.promote(make_version(), ask("promote:0"), epoch=None, order=9)


def test_a_candidate_compared_with_an_earlier_champion_is_refused_on_record(
    registry, promoted, ask, make_version, model
):
    late = make_version()
    with pytest.raises(
        ConcurrentPromotionError, match="compared with the champion of entry 1, but"
    ):
        registry.promote(late, ask("late"), epoch=1, order=9)
    state = assert_agree(registry, model)
    assert (state.champion, state.entries[-1].op) == (promoted[1].version, "refuse")
    with pytest.raises(ConcurrentPromotionError):  # the same refusal, not a new one
        registry.promote(late, ask("late"), epoch=1, order=9)
    assert len(registry.ledger.state(model).entries) == 3


def test_a_champion_that_left_and_came_back_is_another_epoch(
    registry, promoted, ask, make_version, model
):
    epoch = registry.ledger.state(model).epoch
    registry.rollback(model, ask("back"))
    registry.rollback(model, ask("forth"), to=promoted[1].version)
    assert registry.champion(model) == promoted[1]
    with pytest.raises(ConcurrentPromotionError):
        registry.promote(make_version(), ask("aba"), epoch=epoch, order=9)


def test_an_older_candidate_never_replaces_a_newer_one(
    registry, promoted, ask, make_version, model
):
    with pytest.raises(StaleCandidateError, match="comes from decision 1, and a candidate of dec"):
        registry.promote(make_version(), ask("old"), epoch=None, order=1)
    assert assert_agree(registry, model).champion == promoted[1].version


def test_a_rolled_back_version_is_not_promoted_again_by_a_late_run(registry, promoted, ask, model):
    registry.rollback(model, ask("back"))
    with pytest.raises(StaleCandidateError):
        registry.promote(promoted[1], ask("late"), epoch=None, order=1)
    assert registry.champion(model) == promoted[0]


def test_the_champion_is_not_promoted_twice(registry, promoted, ask):
    with pytest.raises(ConcurrentPromotionError, match="is champion already"):
        registry.promote(promoted[1], ask("again"), epoch=None, order=None)


@pytest.mark.parametrize("op", ["refuse", "reject"])
def test_what_was_settled_is_not_promoted_as_a_candidate(registry, make_version, ask, model, op):
    ref = make_version()
    registry.propose(ref, ask("propose"), epoch=0, order=1)
    registry.refuse(ref, ask("no"), op=op)
    asked = {"epoch": 0, "order": 1, "waiting": True}
    with pytest.raises(StaleCandidateError, match="is no candidate any more"):
        registry.promote(ref, ask("yes"), **asked)
    assert registry.champion(model) is None
    again = make_version()
    registry.propose(again, ask("propose again"), epoch=0, order=2)
    assert registry.promote(again, ask("yes again"), **{**asked, "order": 2}).version == 2


def test_a_rollback_returns_to_the_previous_champion(registry, promoted, ask, model):
    entry = registry.rollback(model, ask("back", "bad week"))
    assert (entry.op, entry.version, entry.reason) == ("rollback", promoted[0].version, "bad week")
    assert entry.evidence["from"] == promoted[1].version
    assert_agree(registry, model)
    assert registry.rollback(model, ask("back", "bad week")) == entry
    with pytest.raises(ConfigurationError, match=f"nothing to roll back to: {model}@1 had no"):
        registry.rollback(model, ask("further"))


@pytest.mark.parametrize(
    ("to", "says"), [(99, "never was champion; champions so far: 1, 2"), (2, "is champion already")]
)
def test_a_rollback_to_a_version_that_cannot_be_says_why(registry, promoted, ask, model, to, says):
    with pytest.raises(ConfigurationError, match=f"{model}@{to} {says}"):
        registry.rollback(model, ask("x"), to=to)
    assert len(registry.ledger.state(model).entries) == 2


def test_a_rollback_without_any_champion_is_refused(registry, ask, model):
    with pytest.raises(ConfigurationError, match="has no champion yet"):
        registry.rollback(model, ask("x"))


def test_a_challenger_waits_under_its_alias_until_it_is_answered(
    registry, promoted, ask, make_version, model
):
    ref = make_version()
    registry.propose(ref, ask("p"), epoch=2, order=5)
    assert assert_agree(registry, model).challenger == ref.version
    registry.refuse(ref, ask("no", "a person said no"), op="reject")
    assert assert_agree(registry, model).challenger is None
    again = make_version()
    registry.propose(again, ask("p2"), epoch=2, order=6)
    registry.promote(again, ask("yes"), epoch=2, order=6)
    assert assert_agree(registry, model).champion == again.version


# versions replaced, files changed


def test_a_write_that_was_cut_off_is_repaired_without_an_observation(
    registry, promoted, ask, make_version, model
):
    ref = make_version()
    request = {"op": "promote", "version": ref.version, "epoch": None, "order": 9}
    from airflow_mlops.core.ledger import Entry

    registry.ledger.record(
        model, "cut", request, lambda s: Entry(model, "promote", "", "t", "r", ref.version, order=9)
    )
    assert aliases(registry, model)["champion"] == promoted[1].version
    registry.reconcile(model)
    assert [e.op for e in assert_agree(registry, model).entries] == ["promote"] * 3


def files_of(services, registry, ref):
    run = registry.models.get(ref).run_id
    (found,) = Path(services.home, "artifacts").rglob(f"{run}/artifacts/model/weights.txt")
    return found


@pytest.mark.parametrize("how", ["changed", "lost"])
def test_a_candidate_whose_files_changed_is_never_promoted(
    services, registry, promoted, ask, make_version, model, how
):
    ref = make_version()
    file = files_of(services, registry, ref)
    file.write_text("PWNED") if how == "changed" else file.unlink()
    family = ModelChangedError if how == "changed" else ModelLostError
    with pytest.raises(family, match=f"files of {ref}"):
        registry.promote(ref, ask("k"), epoch=None, order=9)
    assert len(assert_agree(registry, model).entries) == 2


def test_a_rollback_to_changed_files_is_refused(services, registry, promoted, ask, model):
    files_of(services, registry, promoted[0]).write_text("PWNED")
    with pytest.raises(ModelChangedError):
        registry.rollback(model, ask("back"))
    assert registry.champion(model) == promoted[1]


def test_a_version_that_was_made_again_is_not_the_one_on_record(
    registry, promoted, ask, make_version, model
):
    registry.rollback(model, ask("back"))
    registry.models.client.delete_registered_model(model)
    make_version("impostor")
    make_version("impostor")
    with pytest.raises(ModelChangedError, match="it was changed, or made again"):
        registry.rollback(model, ask("again"), to=2)


def test_a_duplicate_of_a_recipe_is_not_promoted(registry, make_version, ask, model):
    ref = make_version()
    first = registry.models.get(ref)
    tags = {RECIPE: first.recipe, DIGEST: first.digest}
    registry.models.register(model, first.run_id, tags)
    with pytest.raises(
        ConfigurationError, match=f"{model}@2 is not the version its recipe stands fo"
    ):
        registry.promote(ModelRef(model, 2), ask("k"), epoch=None, order=1)
    assert registry.champion(model) is None


def test_a_version_made_elsewhere_is_not_promoted(registry, ask, model):
    client = registry.models.client
    client.create_registered_model(model)
    client.create_model_version(model, "s3://nowhere/x", await_creation_for=0)
    with pytest.raises(ConfigurationError, match="is not the version its recipe stands for"):
        registry.promote(ModelRef(model, 1), ask("k"), epoch=None, order=1)


def test_an_unknown_version_is_not_promoted(registry, ask, model):
    with pytest.raises(ModelNotFoundError, match=f"MLflow knows no {model}@7"):
        registry.promote(ModelRef(model, 7), ask("k"), epoch=None, order=1)


def test_a_champion_that_was_deleted_in_mlflow_is_named(registry, promoted, ask, model):
    registry.models.client.delete_model_version(model, str(promoted[1].version))
    with pytest.raises(ModelNotFoundError, match=f"MLflow knows no {model}"):
        registry.reconcile(model)


# the ledger lost its memory


def without_triggers(services, statement):
    with psycopg.connect(services.dsn("mlops")) as connection:
        connection.execute("alter table mlops.decisions disable trigger all")
        connection.execute(statement)
        connection.execute("alter table mlops.decisions enable trigger all")
        connection.execute("alter table mlops.decisions enable always trigger no_rewrite")
        connection.execute("alter table mlops.decisions enable always trigger no_truncate")


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_tail_is_seen_by_the_anchor_in_mlflow(
    services, registry, promoted, ask, make_version, model, lost
):
    without_triggers(
        services, f"delete from mlops.decisions where model = '{model}' and seq > {2 - lost}"
    )
    says = rf"MLflow remembers entry 2 .* ledger ends at {2 - lost}"
    with pytest.raises(LedgerLostError, match=says):
        registry.reconcile(model)
    with pytest.raises(
        LedgerLostError, match="Restore the newest backup before anything is decided"
    ):
        registry.promote(make_version(), ask("next"), epoch=None, order=9)
    assert len(registry.ledger.state(model).entries) == 2 - lost  # nothing was decided


def test_a_rewritten_tail_is_seen_by_the_anchor(services, registry, promoted, model):
    new = "replace(body, 'better', 'BETTER')"
    rehash = f"encode(sha256(convert_to(prev_hash || E'\\n' || {new}, 'UTF8')), 'hex')"
    without_triggers(
        services,
        f"update mlops.decisions set body = {new}, hash = {rehash} "
        f"where model = '{model}' and seq = 2",
    )
    assert registry.ledger.state(model).champion == 2  # the chain alone does not see it
    with pytest.raises(LedgerLostError, match="MLflow remembers entry 2"):
        registry.reconcile(model)


def test_with_mlflow_down_nothing_is_decided(registry, promoted, ask, model, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    dead = MlflowClient(tracking_uri="http://127.0.0.1:9", registry_uri="http://127.0.0.1:9")
    blind = ModelRegistry(ModelStore(dead), registry.ledger)
    with pytest.raises(UnavailableError, match="MLflow does not answer about"):
        blind.promote(promoted[0], ask("k"), epoch=None, order=9)
    with pytest.raises(UnavailableError):
        blind.reconcile(model)
    with pytest.raises(UnavailableError):
        blind.rollback(model, ask("k"))
    assert len(registry.ledger.state(model).entries) == 2


def test_two_promotions_at_once_leave_one_champion_and_one_refusal(
    registry, promoted, ask, make_version, model
):
    refs, barrier = [make_version(), make_version()], threading.Barrier(2)
    epoch = registry.ledger.state(model).epoch

    def promote(ref):
        barrier.wait()
        try:
            return registry.promote(ref, ask(f"race:{ref}"), epoch=epoch, order=9 + ref.version)
        except (ConcurrentPromotionError, StaleCandidateError) as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(promote, refs))
    state = assert_agree(registry, model)
    assert sorted(e.op for e in state.entries[2:]) == ["promote", "refuse"]
    won = next(ref for ref, a in zip(refs, answers, strict=True) if not isinstance(a, Exception))
    assert registry.champion(model) == won
    assert sum(isinstance(a, ConcurrentPromotionError) for a in answers) == 1


def test_a_candidate_judged_against_nobody_is_refused_once_there_is_a_champion(
    registry, make_version, ask, model
):
    first, second, third = (make_version() for _ in range(3))
    registry.propose(first, ask("p1"), epoch=0, order=1)
    waiting = registry.propose(second, ask("p2"), epoch=0, order=2)
    assert waiting.epoch == 0
    registry.promote(second, ask("answer:2"), epoch=0, order=2)
    for number, claim in enumerate((registry.propose, registry.promote)):
        with pytest.raises(ConcurrentPromotionError, match="champion of entry 0, but entry 3"):
            claim(third, ask(f"late:{number}"), epoch=0, order=3)
    assert [e.op for e in assert_agree(registry, model).entries][-2:] == ["refuse", "refuse"]
    assert registry.champion(model) == second


def test_an_older_candidate_neither_replaces_a_newer_one_nor_is_promoted_beside_it(
    registry, make_version, ask, model
):
    old, new = make_version(), make_version()
    registry.propose(old, ask("p1"), epoch=0, order=1)
    registry.propose(new, ask("p2"), epoch=0, order=5)
    with pytest.raises(StaleCandidateError, match="decision 5 was proposed after it"):
        registry.propose(old, ask("again"), epoch=0, order=1)
    with pytest.raises(StaleCandidateError, match="decision 5 was proposed after it"):
        registry.promote(old, ask("answer:1"), epoch=0, order=1)
    assert assert_agree(registry, model).challenger == new.version
