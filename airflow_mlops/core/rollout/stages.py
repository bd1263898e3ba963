"""Stages of a rollout as the ledger holds them: begun, running, ended."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import xxhash

from airflow_mlops.core.errors import ConcurrentPromotionError, ConfigurationError, RejectedError
from airflow_mlops.policy import AB, Canary, Full, Guarded, Shadow, Stage, duration, share_of

if TYPE_CHECKING:
    from airflow_mlops.core.ledger import Entry, Ledger, State
    from airflow_mlops.core.rollout.looks import Look


@dataclass(frozen=True, slots=True)
class Begun:
    """
    A stage that has begun.

    :param stage: its word: a shadow, a canary, or an A/B test.
    :param champion: version that served everybody when it began.
    :param candidate: version that is tried.
    :param since: when it began by the clock of the data, ISO 8601 with a time zone.
    :param metric: what is compared between the arms.
    :param baseline: mean of the metric of the champion before; effects are shares of it.
    :param lateness: seconds by which outcomes may come after their exposure.
    :param experiment: name of its exposures; given when it is on record.
    """

    model: str
    stage: Shadow | Canary | AB
    champion: int
    candidate: int
    since: str
    metric: str
    baseline: float
    lateness: float = 0.0
    experiment: str = ""

    def __post_init__(self) -> None:
        if datetime.fromisoformat(self.since).tzinfo is None:
            msg = f"since is {self.since!r}; it needs a time zone"
            raise ConfigurationError(msg)
        if self.effect is not None and not 0 < self.effect < float("inf"):
            msg = (
                f"{self.metric} of {self.model}@{self.champion} was {self.baseline!r} on average: "
                "a share of it is no difference to look for; compare another metric"
            )
            raise ConfigurationError(msg)

    @property
    def share(self) -> float:
        """Share of the entities that the candidate serves, 0 to 1."""
        return share_of(self.stage) / 100

    @property
    def salt(self) -> int:
        """Seed of the assignment, 64 bits: the same in all stages of one candidate."""
        return xxhash.xxh3_64_intdigest(f"{self.model}@{self.candidate}".encode())

    @property
    def effect(self) -> float | None:
        """Smallest difference worth seeing, in the unit of the metric; none in a shadow."""
        if isinstance(self.stage, Canary | AB):
            return self.stage.min_effect * abs(self.baseline)
        return None

    @property
    def lasts(self) -> str:
        """How long it holds, or may take, as it was written."""
        return self.stage.within if isinstance(self.stage, AB) else self.stage.hold

    @property
    def end(self) -> datetime:
        """When it is over by the clock of the data."""
        return datetime.fromisoformat(self.since) + duration(self.lasts)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the salt is text, for it has more digits than a float."""
        return asdict(self) | {"stage": self.stage.to_dict(), "salt": str(self.salt)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the stage that :meth:`to_dict` wrote."""
        values = {n: data[n] for n in cls.__dataclass_fields__ if n in data}
        return cls(**values | {"stage": Guarded.from_dict(data["stage"])})

    @classmethod
    def of(cls, state: "State") -> "Begun | None":
        """
        Return the stage that is running, or nothing.

        A stage ends by its own entry, and by whatever takes its ground away: another champion, a
        candidate that is refused or rejected, a newer candidate.
        """
        last = state.last("stage")
        begun = _read(last) if last else None
        if last is None or begun is None or state.epoch > last.seq:
            return None
        over = any(_ends(entry, begun) for entry in state.since(last.seq))
        return None if over else begun


def _ends(entry: "Entry", begun: Begun) -> bool:
    """Say whether a later entry ends a stage."""
    if entry.version == begun.candidate:
        return entry.op in ("refuse", "reject")
    return entry.op == "propose"


def _read(entry: "Entry") -> Begun | None:
    if entry.evidence["status"] != "begun":
        return None
    experiment = f"{entry.model}@{entry.version}/{entry.seq}"
    return Begun.from_dict({**entry.evidence, "model": entry.model, "experiment": experiment})


def begin(ledger: "Ledger", begun: Begun, *, key: str, by: str, outlook: str = "") -> Begun:
    """
    Put on record that a stage begins, exactly once, and return it with its experiment.

    :param begun: the stage; it has no experiment yet.
    :param key: idempotency key: the same key gets the same answer.
    :param by: a person, or the task that asks.
    :param outlook: how long it will take, in words; it is put on record.
    :raises ConcurrentPromotionError: if the champion is another one meanwhile, or a stage runs.
    """
    from airflow_mlops.core.ledger import Entry

    name = type(begun.stage).__name__

    def build(state: "State") -> Entry:
        running = Begun.of(state)
        if running is not None:
            msg = f"stage {running.experiment} is running; end it before {name} begins"
            raise ConcurrentPromotionError(msg)
        if state.champion != begun.champion:
            msg = (
                f"{name} of {begun.model}@{begun.candidate} was planned against version "
                f"{begun.champion}, champion is {state.champion} now; plan it again"
            )
            raise ConcurrentPromotionError(msg)
        evidence = {**begun.to_dict(), "status": "begun", "now": begun.since}
        reason = f"{name} begins: {_says(begun)}{'; ' if outlook else ''}{outlook}"
        return Entry(
            begun.model, "stage", "", by, reason, begun.candidate, state.epoch, evidence=evidence
        )

    ask = {name: value for name, value in begun.to_dict().items() if name != "since"}
    entry, _ = ledger.record(begun.model, key, ask, build)
    found = _read(entry)
    if found is None:
        msg = f"key {key!r} of {begun.model} belongs to the end of a stage (entry {entry.seq})"
        raise ConfigurationError(msg)
    return found


def end(
    ledger: "Ledger",
    begun: Begun,
    look: "Look",
    *,
    key: str,
    by: str,
    cited: Mapping[str, Any] | None = None,
) -> "Entry":
    """
    Put on record how a stage ended, exactly once.

    :param begun: the stage that runs.
    :param look: what was seen; ``running`` ends nothing.
    :param key: idempotency key: the same key gets the same answer.
    :param by: a person, or the task that asks.
    :param cited: what the look rests on, as the entry names it.
    :raises ConfigurationError: if the look does not end the stage.
    :raises ConcurrentPromotionError: if that stage does not run any more.
    """
    from airflow_mlops.core.ledger import Entry

    if look.status == "running" or look.experiment != begun.experiment:
        msg = f"a look at {look.experiment} that says {look.status!r} ends not {begun.experiment}"
        raise ConfigurationError(msg)

    def build(state: "State") -> Entry:
        if Begun.of(state) != begun:
            msg = f"stage {begun.experiment} is over already; read the ledger of {begun.model}"
            raise ConcurrentPromotionError(msg)
        evidence = {
            "status": "passed" if look.status == "passed" else "stopped",
            "experiment": begun.experiment,
            "look": look.to_dict(),
            "now": look.now,
        } | ({"cited": dict(cited)} if cited else {})
        version, reason = begun.candidate, "; ".join(look.reasons)
        return Entry(begun.model, "stage", "", by, reason, version, state.epoch, evidence=evidence)

    ask = {"experiment": begun.experiment, "status": look.status}
    return ledger.record(begun.model, key, ask, build)[0]


def next_stage(plan: Sequence[Stage], state: "State", candidate: int) -> Stage | None:
    """
    Return the stage a candidate has to go through next; ``Full()``: it is to be promoted.

    :param plan: the stages in their order.
    :param candidate: version that was proposed.
    :return: nothing, if one of its stages runs or was stopped.
    """
    proposed = max((e.seq for e in state.entries if _is(e, "propose", candidate)), default=0)
    ended = [e.evidence["status"] for e in state.since(proposed) if _is(e, "stage", candidate)]
    passed = ended.count("passed")
    if "stopped" in ended or Begun.of(state) is not None or passed >= len(plan):
        return None
    return plan[passed]


def refuse_unpassed(plan: Sequence[Mapping[str, Any]], state: "State", candidate: int) -> None:
    """
    Let nobody be promoted whose stages did not all pass, whatever their tasks look like.

    :param plan: the stages of the policy as dicts; empty: none is known, and none may be running.
    :param candidate: version that is to be promoted.
    :raises RejectedError: if a stage did not begin, still runs, or was stopped.
    """
    running = Begun.of(state)
    waits = [s for s in map(Stage.from_dict, plan) if not isinstance(s, Full)]
    if state.champion is None or state.challenger != candidate:
        return  # the first model goes to everybody; what was settled is refused elsewhere
    mine = running is not None and running.candidate == candidate
    left = None if mine else next_stage([*waits, Full()], state, candidate)
    if not mine and (not waits or isinstance(left, Full)):
        return
    stage = running.stage if mine and running else left or waits[0]
    msg = (
        f"version {candidate} did not pass its stages by the ledger, whatever their tasks look "
        f"like: clear the task of {type(stage).__name__}"
    )
    raise RejectedError(msg)


def _is(entry: "Entry", op: str, version: int) -> bool:
    return entry.op == op and entry.version == version


def _says(begun: Begun) -> str:
    share = f"{share_of(begun.stage):g} % to" if begun.share else "beside the champion,"
    return f"{share} {begun.model}@{begun.candidate} for {begun.lasts} by the clock of the data"
