"""Operator for approval: people decide, in Airflow's own Human-in-the-loop form."""

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Context, Param, conf
from airflow.sdk.exceptions import AirflowSkipException, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import HITLUser, upsert_hitl_detail

from airflow_mlops.core.errors import (
    ConfigurationError,
    HandoverChangedError,
    RejectedError,
    UnavailableError,
)
from airflow_mlops.operators._base import MlopsOperator, Xcom, about_proposal, task_of
from airflow_mlops.operators._telling import tell
from airflow_mlops.policy import duration

if TYPE_CHECKING:
    from airflow_mlops.core.deployment.approval import Bound
    from airflow_mlops.core.entries import Entry

SHOWN = "shown"
"""Digest of what the form of this run shows, and to whom."""

GIVEN = "answer"
"""Where the number of the entry is that holds an answer, until it is dealt with."""

ANSWER = "answer"
"""Step under which every answer is put on record, counted or not."""


class _Kept(TypedDict):
    """An answer that waits until it is dealt with."""

    given: Mapping[str, Any]
    until: str
    reminded: bool


class ApproveModelOperator(MlopsOperator, HITLOperator):
    """
    Ask named people whether a candidate may become champion.

    The task waits without holding a worker, and looks now and then whether the question still
    stands; if not, it is skipped. No answer in time is *reject*. Returns ``choice``, ``note``,
    ``params``, ``window``, ``by``, ``id`` and ``at``; and ``votes``, if several had to say yes.

    :param smoke: what ``SmokeTestModelOperator`` returned (templated).
    :param flips: what ``ReportFlipsOperator`` returned; ``None``: the form does not show which
        decisions change (templated).
    :param by: ids of the users who may answer, as the auth manager knows them: for its simple one
        the user name, for FAB the number of the user; or mappings with ``id`` and ``name``.
    :param within: how long to wait, such as ``"2d"``, with a reminder at half of it.
    :param quorum: how many different people have to say yes.
    :param separate: whoever asked for a retrain may not approve what comes of it.
    :param look: how often to look whether the candidate still waits, such as ``"1h"``.
    :param notifiers: told once that a candidate waits, with the link to the form; then at half
        time, for each yes that is not the last, and of an answer that cannot be used. They find
        ``mlops`` in their context: ``model``, ``line``, ``link``.
    """

    template_fields = (
        *MlopsOperator.template_fields,
        "smoke",
        "flips",
        *HITLOperator.template_fields,
    )

    def __init__(
        self,
        *,
        model: str,
        smoke: Xcom,
        by: Sequence[str | Mapping[str, str]],
        flips: Xcom = None,
        within: str = "2d",
        quorum: int = 1,
        separate: bool = True,
        look: str = "1h",
        notifiers: Sequence[Any] = (),
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("subject", f"Promote a candidate of {model}?")
        super().__init__(
            model=model,
            options=["promote", "reject", "retrain"],
            defaults="reject",
            assigned_users=[_user(user) for user in by],
            response_timeout=duration(within),
            params=_form(),
            **kwargs,
        )
        self.smoke = smoke
        self.flips = flips
        self.by = list(by)
        self.within = within
        self.quorum = quorum
        self.separate = separate
        self.look = look
        self.notifiers = notifiers

    def execute(self, context: Context) -> Any:
        """Show the candidate to those who may say yes, and wait."""
        self.handed("smoke", about_proposal(self.smoke), self.smoke)
        if self.flips:
            self.handed("flips", about_proposal(self.smoke), self.flips)
        proposal, store = self.entry(self.smoke["proposal"]), context["task_state_store"]
        kept = store.get(GIVEN)
        if kept is not None:
            return self._settle(context, proposal, **self._kept(kept))
        self._skip_void(proposal)
        users = [_user(user) for user in self.by]
        _refuse_strangers([user["id"] for user in users])
        self.assigned_users = self._eligible(proposal)
        self.body = "\n\n".join(filter(None, [self.smoke["card"], (self.flips or {}).get("text")]))
        if self.quorum > 1:
            names = ", ".join(user["name"] for user in users)
            self.body += f"\n\n{self.quorum} different people of {names} have to say yes."
        self._refuse_old_form(context)
        until = datetime.now(UTC) + duration(self.within)
        self._tell(context, proposal, "asked", f"waits for a yes or no until {until:%F %H:%M} UTC")
        return self._park(context, until=until, reminded=False)

    def execute_complete(
        self, context: Context, event: dict[str, Any], until: str = "", reminded: bool = False
    ) -> dict[str, Any]:
        """
        Count an answer, or look whether it is still wanted and wait on.

        :param until: when no answer is *reject*, ISO 8601.
        :param reminded: whether people were reminded.
        """
        from airflow_mlops.core.deployment.approval import Answer

        proposal = self.entry(self.smoke["proposal"])
        end = datetime.fromisoformat(until)
        if event.get("timedout") and datetime.now(UTC) < end:
            self._skip_void(proposal)
            half = end - duration(self.within) / 2
            if not reminded and datetime.now(UTC) >= half:
                line = f"still waits for a yes or no, until {end:%F %H:%M} UTC"
                self._tell(context, proposal, "reminder", line)
                reminded = True
            self._park(context, until=end, reminded=reminded)
        # Airflow makes this event of its own record of the response, in the transaction in which it
        # is given; no page and no public route writes what a parked task wakes up with
        found = super().execute_complete(context, event)
        user, given = found["responded_by_user"], found["params_input"] or {}
        answer = Answer(
            found["chosen_options"][0],
            str(given.get("note") or "") or ("" if user else "no answer in time"),
            **({"by": str(user["name"]), "id": str(user["id"])} if user else {}),
            params=given.get("params") or {},
            window=str(given.get("window") or ""),
            at=found["responded_at"].isoformat(),
        )
        kept: _Kept = {"given": answer.to_dict(), "until": until, "reminded": reminded}
        self._keep(context, proposal, kept)
        return self._settle(context, proposal, **kept)

    def _keep(self, context: Context, proposal: "Entry", kept: "_Kept") -> None:
        """Put an answer on record at once, and remember where: a retry does not ask twice."""
        from airflow_mlops.core import handovers

        said = {"choice": kept["given"]["choice"], "id": kept["given"]["id"]}
        entry = handovers.put(
            self.ledger(),
            self.model,
            ANSWER,
            f"{about_proposal(self.smoke)} at {kept['given']['at']}",
            said,
            by=task_of(context),
            version=proposal.version,
            facts={"kept": dict(kept)},
        )
        context["task_state_store"].set(GIVEN, entry.seq)

    def _kept(self, number: Any) -> "_Kept":
        """
        Return the answer that is on record: what Airflow keeps is only its number.

        :raises HandoverChangedError: if that is no answer to this question.
        """
        entry = self.entry(int(number))
        about = f"{about_proposal(self.smoke)} at "
        mine = entry.op == "handover" and str(entry.evidence["about"]).startswith(about)
        if not mine or entry.evidence["step"] != ANSWER:
            msg = (
                f"the answer that Airflow keeps for this task is entry {number} of {self.model}, "
                f"and that answers no {about_proposal(self.smoke)}: it was edited. Start a new run"
            )
            raise HandoverChangedError(msg)
        kept: _Kept = entry.evidence["kept"]
        return kept

    def _settle(
        self,
        context: Context,
        proposal: "Entry",
        *,
        given: Mapping[str, Any],
        until: str,
        reminded: bool,
    ) -> dict[str, Any]:
        """Return the answer if it settles the question; else wait for another one."""
        from airflow_mlops.core.deployment.approval import Answer, vote

        answer, store = Answer.from_dict(given), context["task_state_store"]
        bound, said = self._bound(), [answer]
        problem = answer.problem(self.smoke.get("accepts"))
        if answer.id and answer.id not in {user["id"] for user in self._eligible(proposal)}:
            problem = f"{answer.by} has said yes already, or may not answer"
        line, subject = f"{answer.by} answered {answer.choice}, not counted: {problem}", answer.at
        if not problem and answer.choice == "promote" and self.quorum > 1:
            said = list(vote(self.ledger(), proposal, answer, bound))
            with contextlib.suppress(UnavailableError):  # else the next tick does
                self.registry().reconcile(self.model)  # MLflow remembers it: it cannot be lost
            names = ", ".join(one.by for one in said)
            line, subject = f"{len(said)} of {self.quorum} said yes: {names}", f"votes {len(said)}"
            problem = line if len(said) < self.quorum else ""
        if problem:
            self.log.warning("%s@%s: %s", self.model, proposal.version, line)
            self._tell(context, proposal, subject, line)
            store.delete(GIVEN)
            self._park(context, until=datetime.fromisoformat(until), reminded=reminded)
        names = ", ".join(one.by for one in said)
        counted = {"votes": [one.to_dict() for one in said]} if self.quorum > 1 else {}
        final = answer.to_dict() | {"by": names, "bound": bound.to_dict()} | counted
        version = proposal.version
        self.hand_over(context, "approve", about_proposal(self.smoke), final, version=version)
        store.delete(GIVEN)
        return final

    def _refuse_old_form(self, context: Context) -> None:
        """Refuse to ask by a form of an earlier try that shows something else: Airflow keeps it."""
        from airflow_mlops.core.refs import canonical_digest

        store = context["task_state_store"]
        shown = canonical_digest([self.body, self.smoke["bound"], self.assigned_users])[:16]
        if store.get(SHOWN) not in (None, shown):
            ti = context["ti"]
            msg = (
                f"the form of this run is open and shows something else than is true now; Airflow "
                f"keeps it, so a new run has to ask: airflow dags trigger {ti.dag_id}"
            )
            raise RejectedError(msg)
        store.set(SHOWN, shown)

    def validate_params_input(self, params_input: Mapping[str, Any]) -> None:
        """Accept every form: an answer that cannot be used is asked for again, it fails nothing."""

    def _bound(self) -> "Bound":
        from airflow_mlops.core.deployment.approval import Bound

        return Bound(**self.smoke["bound"])

    def _skip_void(self, proposal: "Entry") -> None:
        """Skip if nobody's answer would count any more."""
        from airflow_mlops.core.deployment.approval import void

        why = void(self.ledger().standing(self.model), proposal)
        if why:
            raise AirflowSkipException(why)

    def _eligible(self, proposal: "Entry") -> list[HITLUser]:
        """Return who can still say yes."""
        from airflow_mlops.core.deployment.approval import approvers, requester, votes

        ledger = self.ledger()
        asked = requester(ledger, proposal) if self.separate else ""
        voted = [one.id for one in votes(ledger.standing(self.model), self._bound())]
        users: list[Any] = [_user(user) for user in self.by]
        return [_user(user) for user in approvers(users, asked, voted, quorum=self.quorum)]

    def _park(self, context: Context, *, until: datetime, reminded: bool) -> NoReturn:
        """Wait for an answer, or for the next look."""
        now, ends = datetime.now(UTC), [until]
        if not reminded:
            ends.append(until - duration(self.within) / 2)
        left = min(end for end in ends if end > now or end == until) - now
        self.response_timeout = max(min(left, duration(self.look)), timedelta(seconds=1))
        upsert_hitl_detail(
            ti_id=context["ti"].id,
            options=self.options,
            subject=self.subject,
            body=self.body,
            defaults=self.defaults,
            multiple=self.multiple,
            params=self.serialized_params,
            assigned_users=self.assigned_users,
        )
        raise TaskAwaitingInput(
            method_name="execute_complete",
            kwargs={"until": until.isoformat(), "reminded": reminded},
            timeout=self.response_timeout,
        )

    def _tell(self, context: Context, proposal: "Entry", subject: str, line: str) -> None:
        """Tell people once, with the link to the form."""
        what = f"{self.model}@{proposal.version}"
        link = self.generate_link_to_ui_from_context(context=context) if _has_pages() else ""
        mlops = {"line": f"{what}: {line}", "link": link, "by": task_of(context)}
        about = f"approval {proposal.seq} {subject}"
        tell(self.observations(), self.notifiers, context, self.model, about, mlops)


def _form() -> dict[str, Param]:
    """Return the fields beside the three answers."""
    return {
        "note": Param(
            None, type=["null", "string"], description="why; everybody can read it later"
        ),
        "window": Param(
            None,
            type=["null", "string"],
            pattern="^([0-9]+ *[smhdw])?$",
            description="for retrain: how much history to learn from, such as 91d",
        ),
        "params": Param(
            {}, type="object", description="for retrain: parameters of the training function"
        ),
    }


def _user(user: str | Mapping[str, str]) -> HITLUser:
    if isinstance(user, str):
        return HITLUser(id=user, name=user)
    return HITLUser(id=str(user["id"]), name=str(user["name"]))


def _refuse_strangers(ids: Sequence[str]) -> None:
    """Refuse users that Airflow's simple auth manager does not know; others cannot be asked."""
    if not str(conf.get("core", "auth_manager", fallback="")).endswith("SimpleAuthManager"):
        return
    if conf.getboolean("core", "simple_auth_manager_all_admins", fallback=False):
        return
    users = conf.getlist("core", "simple_auth_manager_users", fallback=[]) or []
    known = {user.partition(":")[0] for user in users}
    strangers = [one for one in ids if known and one not in known]
    if strangers:
        msg = (
            f"{', '.join(map(repr, strangers))} is no user of Airflow's auth manager; known: "
            f"{', '.join(sorted(known))}. Correct Approval(by=...), or add the user to [core] "
            "simple_auth_manager_users"
        )
        raise ConfigurationError(msg)


def _has_pages() -> bool:
    return bool(conf.get("api", "base_url", fallback=""))
