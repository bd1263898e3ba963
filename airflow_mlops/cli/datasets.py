"""Verbs about datasets: list versions, name them, go back to one, forget, clean up."""

import uuid
from argparse import Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_mlops.cli.declared import lifecycles
from airflow_mlops.cli.verb import (
    conn_id,
    open_datasets,
    open_ledger,
    open_registry,
    reason_of,
    verb,
    who,
)
from airflow_mlops.core.errors import ConfigurationError, DatasetNotFoundError
from airflow_mlops.core.lines import one_line, written
from airflow_mlops.core.refs import DatasetRef, check_name
from airflow_mlops.hooks.ledger import LedgerHook
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    from airflow_mlops.core.data.commits import Commit


@verb
def versions(args: Namespace) -> tuple[dict[str, Any], str]:
    """The versions of a dataset, newest first, with their tags."""
    name = DatasetRef.parse(f"{args.dataset}@0").name
    store = open_datasets()
    commits = store.commits(name)
    if not commits:
        msg = f"no dataset {name} below {store.root}: no such dataset"
        raise DatasetNotFoundError(msg)
    tags: dict[int, list[str]] = {}
    for tag in store.tags(name).values():
        tags.setdefault(tag.version, []).append(tag.name)
    rows = [(c, tags.get(DatasetRef.parse(c.ref).version, [])) for c in commits]
    found = [
        {k: v for k, v in c.to_dict().items() if k != "windows"} | {"tags": t} for c, t in rows
    ]
    return {"dataset": name, "versions": found}, written(_line(c, t) for c, t in rows)


@verb
def tag(args: Namespace) -> tuple[dict[str, Any], str]:
    """Name a version, or with ``--remove`` take the name away."""
    store = open_datasets()
    ref = store.resolve(args.version)
    if args.remove:
        store.untag(ref.name, args.tag)
        return {"dataset": ref.name, "removed": args.tag}, f"{ref.name} has no tag {args.tag!r}"
    made = store.tag(ref, args.tag, by=who(args), move=args.move)
    found = {"version": str(ref), "tag": made.name, "by": made.by, "at": made.at}
    return found, one_line(f"{ref.name}@{made.name} is {ref}, by {made.by} at {made.at}")


@verb
def restore(args: Namespace) -> tuple[dict[str, Any], str]:
    """Make the rows of an earlier version the newest version again."""
    store = open_datasets()
    ref = store.resolve(args.version)
    commit = store.restore(ref, app_key=f"restore:{uuid.uuid4()}", author=who(args), run="by hand")
    text = (
        f"{commit.ref} has the {commit.rows:,} rows of {ref}; the next snapshot reads on from "
        f"{commit.watermark}: correct the source first"
    )
    return commit.to_dict(), text


@verb
def adopt(args: Namespace) -> tuple[dict[str, Any], str]:
    """Take the rows of a dataset as another tool has left them, on record."""
    store, name = open_datasets(), DatasetRef.parse(f"{args.dataset}@0").name
    commit = store.adopt(name, author=who(args), run="by hand")
    if commit is None:
        return {"dataset": name, "adopted": None}, f"no other tool has touched the rows of {name}"
    return (
        commit.facts(),
        f"{commit.ref} has {commit.rows:,} rows ({commit.added:+,}): {commit.origin}",
    )


@verb
def forget(args: Namespace) -> tuple[dict[str, Any], str]:
    """Look where rows of a person are; with ``--apply`` remove them from every version."""
    from airflow_mlops.core.deployment.forgetting import find_person, forget_person
    from airflow_mlops.core.deployment.registry import Ask

    name, stores = DatasetRef.parse(f"{args.dataset}@0").name, (open_registry(), open_datasets())
    if not args.key:
        msg = "--key is missing: whose rows? --key 17, as often as there are keys"
        raise ConfigurationError(msg)
    if not args.apply:
        found = find_person(*stores, name, args.key)
        return found.to_dict(), f"{found}\nnothing was changed; to do it, say --apply"
    ask = Ask(f"forget:{uuid.uuid4()}", who(args), reason_of(args), {})
    observations = LedgerHook(conn_id("ledger")).observations()
    found = forget_person(*stores, observations, name, args.key, ask=ask)
    return found.to_dict(), str(found)


@verb
def gc(args: Namespace) -> tuple[dict[str, Any], str]:
    """What would go, and what is pinned by what; with ``--apply`` it goes."""
    from airflow_mlops.core.deployment.garbage import collect_garbage, find_garbage

    try:
        older = duration(args.older)
    except ValueError as error:
        msg = f"--older: {error}"
        raise ConfigurationError(msg) from error
    asked: dict[str, Any] = {
        "older": older,
        "model": check_name(args.model) if args.model else None,
    }
    stores = open_registry(), open_datasets()
    if not args.apply:
        found = find_garbage(*stores, **asked)
        old, lines = _measured(asked["model"], apply=False)
        text = "\n".join([str(found), *lines, "nothing was changed; to remove it, say --apply"])
        return found.to_dict() | old, text
    found = collect_garbage(*stores, by=who(args), **asked)
    old, lines = _measured(asked["model"], apply=True)
    return found.to_dict() | old | {"applied": True}, "\n".join([str(found), *lines, "done"])


def _measured(model: str | None, *, apply: bool) -> tuple[dict[str, Any], list[str]]:
    """What was measured longer ago than the policies in the Dag files keep it."""
    from airflow_mlops.core.monitoring.keeping import find_old, prune

    stores = open_ledger(), LedgerHook(conn_id("ledger")).observations()
    lives, wrong = lifecycles(model)
    old, lines = [], [f"skipped {line}" for line in wrong]
    for life in lives:
        if life.keep is None:
            lines.append(
                f"keeps   all that was measured of {life.name}: its Lifecycle has no keep="
            )
            continue
        do = prune if apply else find_old
        found = do(*stores, life.name, life.keep, now=datetime.now(UTC))
        old += [part.to_dict() for part in found]
        lines += [f"goes    {part}" for part in found if part.rows]
    if not lives:
        whose = model or "any model"
        lines.append(f"keeps   all that was measured of {whose}: no Dag file declares it")
    return {"old": old}, [written([line]) for line in lines]


def _line(commit: "Commit", tags: list[str]) -> str:
    named = f"  [{', '.join(tags)}]" if tags else ""
    return (
        f"{commit.ref:<24} {commit.rows:>12,} rows {commit.added:>+10,}  until {commit.until[:16]}"
        f"  {commit.created_at[:16]}  {commit.origin}  by {commit.author or 'nobody'}{named}"
    )
