"""Words about people: who may say yes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from airflow_mlops.policy.words import Word, duration


@dataclass(frozen=True, slots=True)
class Approval(Word):
    """
    Who may say yes.

    :param by: ids of the users who may answer, as Airflow's auth manager knows them: for its simple
        one the user names; for FAB the numbers of the users, with their names, such as
        ``{"id": "1", "name": "ann"}``.
    :param within: how long to wait, with a reminder at half of it; no answer in time rejects the
        candidate.
    :param quorum: how many different people have to say yes; one *reject* or *retrain* is enough.
    :param separate: whoever asked for a retrain may not approve what comes of it. An approver who
        answers *retrain* sends a candidate back, and is not meant.
    """

    by: Sequence[str | Mapping[str, str]]
    within: str = "2d"
    quorum: int = 1
    separate: bool = True

    def __post_init__(self) -> None:
        duration(self.within)
        if isinstance(self.by, str):
            msg = f"Approval by {self.by!r}: write a list, by=[{self.by!r}]"
            raise ValueError(msg)
        for user in self.by:
            facts = (user.get("id"), user.get("name")) if isinstance(user, Mapping) else (user,)
            if not all(isinstance(fact, str) and fact for fact in facts):
                msg = f"Approval by names {user!r}; write an id, or {{'id': '1', 'name': 'ann'}}"
                raise ValueError(msg)
        object.__setattr__(self, "by", tuple(self.by))
        if not self.by:
            msg = "Approval needs at least one user in 'by'"
            raise ValueError(msg)
        different = len({u if isinstance(u, str) else u["id"] for u in self.by})
        if not isinstance(self.separate, bool):
            msg = f"Approval separate is {self.separate!r}; write True or False"
            raise ValueError(msg)
        if self.quorum not in range(1, different + 1):
            msg = f"Approval quorum is {self.quorum!r}, and {different} different users are in 'by'"
            raise ValueError(msg)
