"""
MLflow's aliases of one model beside what the ledger says, and who moved them.

MLflow sets an alias on no condition, so a writer may come late, and undo what a newer one did until
it has read the ledger again. So that nobody takes this for a move by hand, a writer leaves a mark
before it writes, and takes it away when the ledger has not moved on.
"""

import contextlib
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from airflow_mlops.core.entries import State
from airflow_mlops.core.errors import UnavailableError
from airflow_mlops.core.training.answers import talking

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from airflow_mlops.core.ledger import Ledger

ANCHOR = "mlops.ledger"
"""Tag of the registered model that holds a copy of the ledger's head: a lost tail is seen."""

_log = logging.getLogger(__name__)

INSTALLATION = "mlops.installation"
"""Tag of the registered model that says which ledger decides on it."""

WRITING = "mlops.writing."
"""Begin of a writer's mark, a tag of the registered model that says since when it writes."""

OVER = timedelta(minutes=15)
"""Age from which a mark is of a writer that was killed: no call takes so long."""

_MOVE = ("propose", "refuse", "reject", "promote", "rollback", "adopt")


def wanted(state: State) -> dict[str, int | None]:
    """Return where the ledger has each alias."""
    return {
        "champion": state.champion,
        "previous": state.previous,
        "challenger": state.challenger,
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What MLflow said about a model at one moment.

    :param aliases: alias -> version.
    :param anchor: its copy of the ledger's head, ``seq:hash``; empty: none yet.
    :param marks: marks of others who write aliases now, and since when.
    :param marked: whether the writer who looks has a mark.
    """

    aliases: Mapping[str, int]
    anchor: str = ""
    marks: Mapping[str, str] = field(default_factory=dict)
    marked: bool = False

    @classmethod
    def of(cls, model: Any, own: str) -> Self:
        """
        Read an answer of MLflow.

        :param model: a ``RegisteredModel``.
        :param own: mark of the writer who looks.
        """
        tags = dict(model.tags)
        marks = {k: at for k, at in tags.items() if k.startswith(WRITING) and k != own}
        aliases = {name: int(version) for name, version in dict(model.aliases).items()}
        return cls(aliases, tags.get(ANCHOR, ""), marks, own in tags)

    @property
    def applied(self) -> int:
        """Number of the newest entry that the aliases are known to follow; 0: of none."""
        number = self.anchor.partition(":")[0]
        return int(number) if number.isdecimal() else 0

    def differing(self, state: State) -> dict[str, int | None]:
        """Return the aliases that are not where the ledger has them, and where it has them."""
        return {name: v for name, v in wanted(state).items() if self.aliases.get(name) != v}

    def agrees(self, state: State) -> bool:
        """Say whether nothing has to be written."""
        return not self.differing(state) and self.anchor == _anchor(state)

    def moved(self, state: State) -> dict[str, int | None]:
        """
        Return the aliases that somebody else moved, and where the ledger has them.

        A champion that never was promoted was certainly set by hand. Any other difference counts
        only while nobody writes and what the ledger says has been applied.

        :param state: read after this was seen.
        """
        found, now = self.differing(state), self.aliases.get("champion")
        writing = any(not _over(name, at) for name, at in self.marks.items())
        if writing or any(e.op in _MOVE for e in state.since(self.applied)):
            certain = now is not None and now not in state.ever
            return {"champion": found["champion"]} if certain else {}
        return found


@dataclass(frozen=True, slots=True)
class Aliases:
    """
    The aliases of one model, for one writer.

    :param client: MLflow client, bound to its server.
    :param ledger: what the aliases follow.
    :param mark: name of the writer's own mark.
    """

    client: "MlflowClient"
    name: str
    ledger: "Ledger"
    mark: str = field(default_factory=lambda: f"{WRITING}{uuid.uuid4().hex[:12]}")

    def read(self) -> Seen | None:
        """Return what MLflow says; nothing if it does not know the model."""
        with talking(self.name, missing_is_fine=True):
            return Seen.of(self.client.get_registered_model(self.name), self.mark)
        return None

    def write(self, seen: Seen, state: State) -> list[str]:
        """
        Set or delete what differs, then the anchor; return in words what was done.

        :param state: read after ``seen``.
        """
        done, differing = [], seen.differing(state)
        if differing and not seen.marked:
            self._tag(self.mark, datetime.now(UTC).isoformat(timespec="seconds"))
        for alias, version in differing.items():
            with talking(f"{self.name}@{version or alias}", existing_is_fine=True):
                if version is None:
                    self.client.delete_registered_model_alias(self.name, alias)
                else:
                    self.client.set_registered_model_alias(self.name, alias, str(version))
            before = seen.aliases.get(alias, "nothing")
            done.append(f"@{alias}: {before} -> {'nothing' if version is None else version}")
        if seen.anchor != _anchor(state):
            if not seen.anchor:
                self._tag(INSTALLATION, self.ledger.identifier())
            self._tag(ANCHOR, _anchor(state))
        return done

    def finish(self, seen: Seen) -> None:
        """
        Take the writer's own mark away, and those of writers that were killed.

        :param seen: what agreed with the ledger.
        """
        gone = [name for name, at in seen.marks.items() if _over(name, at)]
        with contextlib.suppress(UnavailableError):  # the aliases are right; a mark is over soon
            for name in (*gone, *([self.mark] if seen.marked else [])):
                with talking(self.name, missing_is_fine=True):
                    self.client.delete_registered_model_tag(self.name, name)

    def _tag(self, name: str, value: str) -> None:
        with talking(self.name, existing_is_fine=True):
            self.client.set_registered_model_tag(self.name, name, value)


def _anchor(state: State) -> str:
    return "{}:{}".format(*state.head)


def _over(name: str, since: str) -> bool:
    """Say whether the writer of a mark was killed; a mark that no writer made counts as over."""
    now = datetime.now(UTC)
    with contextlib.suppress(ValueError, TypeError):
        age = now - datetime.fromisoformat(since)
        if age > -OVER:
            return age > OVER
    _log.warning(
        "tag %r is no mark of a writer: %r is no moment of now; it is ignored", name, since
    )
    return True
