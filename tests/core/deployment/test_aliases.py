"""Aliases that somebody moved by hand: found, put on record, and put back or followed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from airflow_mlops.core.deployment.aliases import WRITING, Aliases, Seen
from airflow_mlops.core.deployment.registry import ModelRegistry
from airflow_mlops.core.entries import Entry, State
from airflow_mlops.core.errors import ConcurrentPromotionError, ConfigurationError
from tests.faults.truth import settled

services = pytest.mark.services

NOW, LONG_AGO = datetime.now(UTC), datetime.now(UTC) - timedelta(hours=1)


def state_of(*ops):
    """Fold ``(op, version)`` into a state."""
    state = State()
    for op, version in ops:
        seq, head = state.head
        made = Entry("m", op, f"k{seq}", "t", "r", version, seq=seq + 1, prev_hash=head)
        state = state.after(made)
    return state


TWO = state_of(("promote", 1), ("promote", 2))
RIGHT = {"champion": 2, "previous": 1}


@pytest.mark.parametrize(
    ("aliases", "anchor", "marks", "moved"),
    [
        (RIGHT, "2:x", {}, {}),
        (RIGHT | {"champion": 1}, "2:x", {}, {"champion": 2}),
        (RIGHT | {"champion": 1}, "1:x", {}, {}),  # entry 2 is being applied
        (RIGHT | {"champion": 1}, "2:x", {"w": NOW}, {}),  # or undone by somebody who comes late
        (RIGHT | {"champion": 1}, "2:x", {"w": LONG_AGO}, {"champion": 2}),
        (RIGHT | {"champion": 7}, "1:x", {"w": NOW}, {"champion": 2}),  # never was champion
        (RIGHT | {"challenger": 7}, "2:x", {}, {"challenger": None}),
        (RIGHT | {"challenger": 7}, "2:x", {"w": NOW}, {}),
        ({"previous": 1}, "2:x", {}, {"champion": 2}),
        ({"previous": 1}, "", {}, {}),
    ],
)
def test_a_difference_is_a_move_by_hand_unless_a_writer_can_have_made_it(
    aliases, anchor, marks, moved
):
    marks = {name: at.isoformat() for name, at in marks.items()}
    assert Seen(aliases, anchor, marks).moved(TWO) == moved


def test_entries_that_move_no_alias_leave_it_applied():
    later = state_of(("promote", 1), ("promote", 2), ("keep", None), ("vote", 2), ("stage", 2))
    assert Seen({"champion": 1, "previous": 1}, "2:x").moved(later) == {"champion": 2}


@services
def test_a_policy_that_is_none_is_refused(registry):
    with pytest.raises(ConfigurationError, match=r"moved_alias 'follow' .* known: restore, adopt"):
        replace(registry, moved_alias="follow")


@pytest.fixture
def promoted(registry, make_version, ask):
    """Two champions, one after the other."""
    refs = [make_version() for _ in range(2)]
    for number, ref in enumerate(refs):
        registry.promote(ref, ask(f"promote:{number}"), epoch=None, order=number)
    return refs


@pytest.fixture
def move(registry, model):
    """``move(alias, version)``: what somebody does by hand; no version: the alias goes."""

    def run(alias, version=None):
        client = registry.models.client
        if version is None:
            client.delete_registered_model_alias(model, alias)
        else:
            client.set_registered_model_alias(model, alias, str(version))

    return run


@pytest.fixture
def adopting(registry):
    return replace(registry, moved_alias="adopt")


@services
@pytest.mark.parametrize("to", ["a stranger", "an earlier champion", "nothing"])
def test_a_champion_that_was_moved_is_on_record_once_and_put_back(
    registry, promoted, move, make_version, model, to
):
    version = {"a stranger": make_version().version, "an earlier champion": 1}.get(to)
    for number in (1, 2):
        move("champion", version)
        assert registry.reconcile(model) == (f"@champion: {version or 'nothing'} -> 2",)
        assert registry.reconcile(model) == ()
        found = settled(registry, model)
        assert found.ops == ["promote", "promote", *["observe"] * number]
        assert (found.champion, found.entries[-1]["version"]) == (2, version)
        says = f"@champion was {version or 'nothing'}, the ledger says 2; the alias is put back"
        assert found.entries[-1]["reason"] == says


@services
@pytest.mark.parametrize("policy", ["restore", "adopt"])
def test_other_aliases_are_put_back_whatever_the_policy(
    registry, promoted, move, make_version, ask, model, policy
):
    ref, by_policy = make_version(), replace(registry, moved_alias=policy)
    registry.propose(ref, ask("p"), epoch=2, order=5)
    move("challenger", 1)
    move("previous")
    assert by_policy.reconcile(model) == ("@previous: nothing -> 1", "@challenger: 1 -> 3")
    found = settled(registry, model)
    assert found.ops[3:] == ["observe", "observe"]
    assert "@challenger was 1, the ledger says 3" in found.entries[-1]["reason"]


@services
@pytest.mark.parametrize("to", ["a stranger", "an earlier champion", "the candidate"])
def test_a_moved_champion_is_adopted_if_that_is_the_policy(
    registry, adopting, promoted, move, make_version, ask, model, to
):
    ref = promoted[0] if to == "an earlier champion" else make_version()
    if to == "the candidate":
        registry.propose(ref, ask("p"), epoch=2, order=5)
    move("champion", ref.version)
    words = f"@champion: 2 -> {ref.version}, adopted (entry {4 if to == 'the candidate' else 3})"
    assert adopting.reconcile(model)[0] == words
    assert adopting.reconcile(model) == ()
    found = settled(registry, model)
    entry, version = found.entries[-1], registry.models.get(ref)
    assert (found.ops[-1], found.champion, found.previous) == ("adopt", ref.version, 2)
    assert (entry["by"], entry["evidence"]["from"]) == ("unknown, by hand", 2)
    assert entry["evidence"]["digest"] == version.digest
    assert found.challenger is None
    assert registry.rollback(model, ask("back")).version == 2  # as after a promotion
    assert settled(registry, model).champion == 2


@services
def test_a_candidate_compared_with_the_champion_before_is_refused_after_an_adoption(
    registry, adopting, promoted, move, make_version, ask, model
):
    late = make_version()
    move("champion", 1)
    adopting.reconcile(model)
    with pytest.raises(ConcurrentPromotionError, match="entry 3 changed it to 1"):
        registry.promote(late, ask("late"), epoch=2, order=9)
    assert settled(registry, model).champion == 1


@services
@pytest.mark.parametrize("why", ["changed", "made elsewhere"])
def test_what_cannot_be_verified_is_not_adopted(
    registry, adopting, promoted, move, make_version, model_store, model, why
):
    if why == "changed":
        ref = make_version()
        run_id = model_store.get(ref).run_id
        model_store.log_document(run_id, "model/weights.txt", "PWNED")
        version, says = ref.version, "are not those that were evaluated"
    else:
        found = model_store.client.create_model_version(
            model, "s3://nowhere/x", await_creation_for=0
        )
        version, says = int(found.version), "is not the version its recipe stands for"
    move("champion", version)
    assert adopting.reconcile(model) == (f"@champion: {version} -> 2",)
    found = settled(registry, model)
    assert (found.ops[-1], found.champion) == ("observe", 2)
    assert "the alias is put back, for it cannot be adopted: " in found.entries[-1]["reason"]
    assert says in found.entries[-1]["reason"]


@services
def test_the_first_champion_may_be_made_by_hand_if_it_is_adopted(
    registry, adopting, move, make_version, model
):
    move("champion", make_version().version)
    assert registry.reconcile(model) == ()  # an empty ledger says nothing
    assert adopting.reconcile(model)[0] == "@champion: nothing -> 1, adopted (entry 1)"
    assert settled(registry, model).champion == 1


@services
@pytest.mark.parametrize("policy", ["restore", "adopt"])
def test_several_who_see_one_move_answer_it_once(
    registry, promoted, move, make_version, model, policy
):
    stranger, barrier = make_version(), threading.Barrier(4)
    move("champion", stranger.version)

    def look(_):
        barrier.wait()
        return replace(registry, moved_alias=policy).reconcile(model)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(look, range(4)))
    found = settled(registry, model)
    op, champion = ("observe", 2) if policy == "restore" else ("adopt", stranger.version)
    assert (found.ops[2:], found.champion) == ([op], champion)


@services
def test_a_promotion_that_comes_first_is_not_undone_by_an_adoption(
    registry, adopting, promoted, move, make_version, model, monkeypatch
):
    stranger, candidate = make_version(), make_version()
    move("champion", stranger.version)
    verified = ModelRegistry._verified

    def meanwhile(self, ref):  # somebody promotes while the files are looked at, and is killed
        draft = Entry(model, "promote", "", "t", "r", candidate.version, 2)
        registry.ledger.record(model, "faster", {}, lambda _: draft)
        return verified(self, ref)

    monkeypatch.setattr(ModelRegistry, "_verified", meanwhile)
    adopting.reconcile(model)
    found = settled(registry, model)
    assert found.champion == candidate.version
    assert found.ops[2:] == ["promote", "observe"]
    assert found.entries[-1]["reason"].endswith("; entry 3 changed the champion meanwhile")


@services
def test_adoptions_and_promotions_at_once_leave_one_order(
    registry, adopting, promoted, move, make_version, ask, model
):
    for number in range(4):
        stranger, candidate, barrier = make_version(), make_version(), threading.Barrier(2)
        epoch = registry.ledger.state(model).epoch
        move("champion", stranger.version)

        def adopt(barrier=barrier):
            barrier.wait()
            return adopting.reconcile(model)

        def promote(barrier=barrier, ref=candidate, epoch=epoch, number=number):
            barrier.wait()
            try:
                return adopting.promote(ref, ask(f"race {number}"), epoch=epoch, order=9 + number)
            except ConcurrentPromotionError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(adopt), pool.submit(promote)]
        answer = asked[1].result()
        asked[0].result()
        found, last = settled(registry, model), registry.ledger.state(model).epoch
        won = not isinstance(answer, Exception)
        if won and answer.seq == last:
            assert found.champion == candidate.version
        else:
            assert found.champion == stranger.version


@services
def test_a_late_writer_is_not_taken_for_a_hand(registry, adopting, promoted, model, monkeypatch):
    late = Aliases(registry.models.client, model, registry.ledger)
    before = late.read()
    first = registry.ledger.state(model)
    older = State.of_entries(first.entries[:1])
    late.write(before, older)  # it has read the ledger long ago, and is killed now
    assert late.read().aliases["champion"] == 1
    registry.models.client.set_registered_model_tag(
        model, "mlops.ledger", "{}:{}".format(*first.head)
    )
    assert adopting.reconcile(model)[0] == "@champion: 1 -> 2"
    found = settled(registry, model)
    assert (found.ops, found.champion) == (["promote", "promote"], 2)
    tags = registry.models.client.get_registered_model(model).tags
    assert [name for name in tags if name.startswith(WRITING)] == [late.mark]
    monkeypatch.setattr("airflow_mlops.core.deployment.aliases.OVER", timedelta(0))
    registry.reconcile(model)
    tags = registry.models.client.get_registered_model(model).tags
    assert not [name for name in tags if name.startswith(WRITING)]


@pytest.mark.parametrize(
    "mark", ["", "now", "2024-01-01T00:00:00", "9999-01-01T00:00:00+00:00", "\0", "1e400"]
)
def test_a_mark_that_no_writer_made_is_ignored_with_a_warning(mark, caplog):
    name = "mlops.writing.by-hand"
    seen = Seen(RIGHT | {"champion": 1}, "2:x", {name: mark})
    assert seen.moved(TWO) == {"champion": 2}
    assert f"tag {name!r} is no mark of a writer" in caplog.text
