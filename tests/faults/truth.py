"""What is true of a model by its rows in PostgreSQL alone, computed without the package."""

import hashlib
import json
from typing import Any, NamedTuple

import psycopg


class Truth(NamedTuple):
    """Who is champion, and what is on record."""

    champion: int | None
    previous: int | None
    challenger: int | None
    epoch: int
    entries: list[dict[str, Any]]
    hash: str

    @property
    def ops(self) -> list[str]:
        return [e["op"] for e in self.entries]


def truth(dsn: str, model: str) -> Truth:
    """
    Read the rows, check number, chain and key of each, and add them up.

    A claim that names the change of champion it was made against has to follow that very change.
    """
    statement = "select seq, prev_hash, hash, body from mlops.decisions where model = %s order by 1"
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(statement, (model,)).fetchall()
    stack, challenger, epoch, entries, head = [], None, 0, [], "0" * 64
    for number, (seq, before, digest, body) in enumerate(rows, 1):
        assert (seq, before) == (number, head), f"gap or fork at entry {seq}"
        head = hashlib.sha256(f"{before}\n{body}".encode()).hexdigest()
        assert digest == head
        entry = json.loads(body)
        op, version, against = entry["op"], entry["version"], entry["evidence"].get("against")
        if op in ("promote", "adopt", "rollback"):
            assert against in (None, epoch), f"entry {seq} was decided against another champion"
            epoch = seq
        if op in ("promote", "adopt"):
            stack = [v for v in stack if v != version] + [version]
        elif op == "rollback":
            stack = (
                stack[: stack.index(version) + 1] if version in stack else [*stack[:-1], version]
            )
        if op == "propose":
            challenger = version
        elif op in ("promote", "adopt", "refuse", "reject") and version == challenger:
            challenger = None
        entries.append(entry)
    keys = [e["key"] for e in entries]
    assert len(set(keys)) == len(keys)
    champion, previous = (stack[-1:] or [None])[0], (stack[-2:-1] or [None])[0]
    return Truth(champion, previous, challenger, epoch, entries, head)


def settled(registry: Any, model: str) -> Truth:
    """Return what is true, after checking that the ledger, MLflow and its anchor say the same."""
    found = truth(registry.ledger.dsn, model)
    for state in (registry.ledger.state(model), registry.ledger.standing(model)):
        said = (state.champion, state.previous, state.challenger, state.epoch, state.head)
        assert said == (*found[:4], (len(found.entries), found.hash))
    there = registry.models.client.get_registered_model(model)
    wanted = {name: getattr(found, name) for name in ("champion", "previous", "challenger")}
    aliases = {name: int(version) for name, version in dict(there.aliases).items()}
    assert aliases == {name: version for name, version in wanted.items() if version is not None}
    assert there.tags["mlops.ledger"] == f"{len(found.entries)}:{found.hash}"
    return found
