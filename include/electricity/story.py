"""
The demo: the electricity market's history, lived through week by week on a real stack.

``make demo`` runs it. Nothing in here decides anything: it delivers rows, starts the monitor, and
answers the approval form as ``ml-lead``; what happens is read from the ledger afterwards.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from airflow_mlops.core.errors import MlopsError, RejectedError, UnavailableError
from airflow_mlops.core.ledger import Entry, Ledger, State
from airflow_mlops.core.monitoring.observations import Observations
from airflow_mlops.local import Stack
from airflow_mlops.local.api import AirflowApi
from include.electricity.deliveries import OPENING_ROW, WEEK, Deliveries
from include.electricity.report import Report, Week

MODEL = "electricity"
MONITOR, TRAIN, ROLLOUT = (f"{MODEL}__{stage}" for stage in ("monitor", "train", "rollout"))
WARM_UP = 26
OPENING = OPENING_ROW // WEEK
"""Week in which the interstate market opens."""

LAST = OPENING + 12
"""Week at which the story gives up waiting for a retrain that pays."""

AFTER = 6
"""Weeks that are lived after the rollback."""

ROOT = Path(__file__).resolve().parents[2]
APPROVER = "ml-lead"
AGAIN = """The pages are stopped. To look at them again, and to ask `airflow mlops`:
  .venv/bin/python -m airflow_mlops.local up --home .local/demo
  eval "$(.venv/bin/python -m airflow_mlops.local env --home .local/demo)"
"""


@dataclass
class Story:
    """
    One life of the model.

    :param stack: a running stack.
    :param person: whether a person answers the approval form in the browser.
    """

    stack: Stack
    console: Console
    started: float
    person: bool = False
    weeks: list[Week] = field(default_factory=list)
    next_week: int = WARM_UP

    def __post_init__(self) -> None:
        passwords, url = self.stack.settings.passwords, self.stack.urls["airflow"]
        self.admin = AirflowApi(url, "admin", passwords["admin"])
        self.approver = AirflowApi(url, APPROVER, passwords[APPROVER])
        self.ledger = Ledger(self.stack.dsn("mlops"))
        self.observations = Observations(self.stack.dsn("mlops"))
        self.deliveries = Deliveries(self.stack.dsn("warehouse"))

    # 1
    def first_champion(self) -> None:
        """Deliver 26 weeks of history, and take the first model through gates and approval."""
        self.say(f"1. {WARM_UP} weeks of history: the first champion")
        self.deliveries.create()
        self.deliveries.rows(0, WARM_UP - 1)
        self.deliveries.labels(0, WARM_UP - 2)
        self.expect(self.follow(self.tick()), "promote")

    # 2 and 3
    def until_it_pays(self) -> None:
        """Live week by week until the market has opened and a new champion serves."""
        self.say("2. Week by week: versioned, checked, scored, decided")
        while self.next_week <= LAST:
            if self.next_week == OPENING:
                self.say("3. Row 17,424: the interstate market opens, three columns come alive")
            decision = self.week()
            if self.weeks[-1].week == OPENING:
                self.check_drift()
            settled = self.follow(decision)
            if settled.op == "promote" and self.weeks[-1].week > OPENING:
                self.week()  # the next week is scored by the new champion
                return
        msg = f"no retrain paid within {LAST - OPENING} weeks of the opening"
        raise RejectedError(msg)

    def check_drift(self) -> None:
        """See that the monitor names exactly the columns that came alive."""
        newest = self.observations.read(MODEL, "drift", last=1)[0].body
        self.note(f"the drift monitor names: {', '.join(newest['drifted'])}")
        if set(newest["drifted"]) != {"vicprice", "vicdemand", "transfer"}:
            msg = f"drift of the opening week should be in three columns, not {newest['drifted']}"
            raise RejectedError(msg)
        self.note(self.airflow("mlops", "status", MODEL).rstrip())

    # 4
    def broken_delivery(self) -> None:
        """Deliver a week with a column renamed and another one turned into text; then mend it."""
        self.say("4. A broken delivery: one column renamed, another one turned into text")
        number, before = self.next_week, self.predictions()
        self.deliveries.break_columns()
        run_id = self.admin.trigger(MONITOR)
        if self.wait(MONITOR, run_id) != "failed" or self.predictions() != before:
            msg = "a broken delivery was not stopped"
            raise RejectedError(msg)
        finding = self.observations.read(MODEL, "contract", last=1)[0].body
        self.note(f"stopped, nothing was scored: {finding['breaks'][0]}")
        self.deliveries.mend_columns()
        self.deliver(number)
        self.admin.clear(MONITOR, run_id)
        if self.wait(MONITOR, run_id) != "success":
            self.fail(MONITOR, run_id)
        self.note(f"corrected and cleared: {self.predictions() - before} rows scored, none lost")
        self.follow(self.keep(number))

    # 5
    def bad_candidate(self) -> None:
        """Ask for a retrain on shuffled labels: refused, tried once more, then people are told."""
        self.say("5. A bad candidate: trained on shuffled labels")
        self.airflow(
            *("mlops", "retrain", MODEL, "--by", APPROVER),
            *("--reason", "what if the labels were shuffled?"),
            *("--params", '{"shuffle_labels": true}', "--no-trigger"),
        )
        self.expect(self.follow(self.tick()), "ask")

    # 6
    def rollback(self) -> None:
        """Return to the previous champion with one command, and live on."""
        self.say("6. Something goes wrong in production: one command rolls back")
        reason = "complaints from the trading desk; going back until they are understood"
        command = ("mlops", "rollback", MODEL, "--by", APPROVER, "--reason", reason)
        self.note(self.airflow(*command).strip())
        for _ in range(AFTER):
            self.follow(self.week())

    # 7
    def chain(self) -> None:
        """Print who decided what, and verify the chain."""
        self.say("7. Who decided what, and why")
        for verb in ("status", "plan", "why", "history", "doctor"):
            arguments = ("mlops", verb) if verb == "doctor" else ("mlops", verb, MODEL)
            self.console.print(f"$ airflow {' '.join(arguments)}", style="bold", highlight=False)
            self.console.print(self.airflow(*arguments).rstrip(), highlight=False, markup=False)

    def week(self) -> Entry:
        """Deliver the next week's rows and the labels of the week before; start the monitor."""
        number = self.next_week
        self.deliver(number)
        self.tick()
        return self.keep(number)

    def deliver(self, number: int) -> None:
        """Deliver one week, and the labels of the week before."""
        self.deliveries.rows(number, number)
        self.deliveries.labels(number - 1, number - 1)
        self.next_week = number + 1

    def tick(self) -> Entry:
        """Run the monitor once, and return what it decided; *ask* fails its run on purpose."""
        run_id = self.admin.trigger(MONITOR)
        state = self.wait(MONITOR, run_id)
        decision = self.decision()
        if not decision.by.startswith(f"{MONITOR}/{run_id}/") or (
            state == "failed" and decision.op != "ask"
        ):
            self.fail(MONITOR, run_id)
        return decision

    def keep(self, number: int) -> Entry:
        """Note what the monitor decided in a week."""
        decision = self.decision()
        trigger = decision.evidence["trigger"]
        self.weeks.append(Week(number, WEEK, f"{decision.op}", decision.reason))
        self.note(f"week {number}: {decision.op} ({trigger}): {decision.reason}")
        return decision

    def follow(self, decision: Entry) -> Entry:
        """Follow a decision to its end: promoted, rejected, people told; or nothing to do."""
        while decision.op == "retrain":
            answer = self.next_entry(decision, ("propose", "refuse"))
            self.note(f"{MODEL}@{answer.version} {answer.op}d: {answer.reason}")
            if answer.op == "propose":
                return self.approved(answer)
            decision = self.next_entry(answer, ("retrain", "ask"))
            self.note(f"{decision.op}: {decision.reason}")
        return decision

    def approved(self, proposal: Entry) -> Entry:
        """Take a candidate through the approval, and return how it ended."""
        if self.person:
            url = f"{self.stack.urls['airflow']}/required_actions"
            self.say(f"your turn: sign in as {APPROVER} and answer at {url}")
        meanwhile = (lambda: None) if self.person else partial(self.answer, proposal)
        settled = self.next_entry(proposal, ("promote", "reject", "refuse"), meanwhile)
        self.note(f"{settled.op} {MODEL}@{settled.version}, by {settled.by}: {settled.reason}")
        return settled

    def next_entry(
        self, after: Entry, ops: tuple[str, ...], meanwhile: Callable[[], None] = lambda: None
    ) -> Entry:
        """Wait for the next entry of these kinds."""
        end = time.monotonic() + (86_400 if self.person else 240)
        while time.monotonic() < end:
            state = self.state()
            for entry in state.entries[after.seq :]:
                if entry.op in ops:
                    return entry
            meanwhile()
            self.stack.check()
            for dag in (TRAIN, ROLLOUT):
                run_id = self.failed_since(after, dag)
                if run_id and self.state().head == state.head:  # it left nothing on record
                    self.fail(dag, run_id)
            time.sleep(0.4)
        msg = f"no {' or '.join(ops)} after entry {after.seq} ({after.op}); ask: airflow mlops why"
        raise UnavailableError(msg)

    def failed_since(self, after: Entry, dag_id: str) -> str | None:
        """Return the newest run of a Dag, if it failed and is younger than an entry."""
        began = after.at.replace("+00:00", "Z")  # as Airflow writes it
        runs = self.admin.runs(dag_id)[:1]
        failed = [r for r in runs if r["state"] == "failed" and r["queued_at"] > began]
        return str(failed[0]["dag_run_id"]) if failed else None

    def answer(self, proposal: Entry) -> None:
        """Read the numbers, and answer the form if it is open, through Airflow's own API."""
        title = f"**{MODEL}@{proposal.version}**"
        for request in self.approver.requests():
            task = request["task_instance"]
            if task["dag_id"] != ROLLOUT or title not in (request["body"] or ""):
                continue
            time.sleep(2)  # an answer within the second in which a task parks makes it ask again
            verdict = proposal.evidence["verdict"]
            found = proposal.evidence["evaluation"]["comparisons"]
            loses = any(c["difference"] > 0 for c in found)
            choice = "reject" if loses else "promote"
            note = "worse on the hold-out" if loses else f"read the card: gate {verdict['status']}"
            self.approver.answer(request, choice, note=note, params={})
            self.note(f"{APPROVER} answers {choice}: {note}")

    def wait(self, dag_id: str, run_id: str) -> str:
        """Wait for a run, and notice a dead component at once."""
        return self.admin.wait(dag_id, run_id, seconds=240, meanwhile=self.stack.check)

    def fail(self, dag_id: str, run_id: str) -> None:
        """Raise with the last log lines of what failed."""
        tasks = self.admin.tasks(dag_id, run_id)
        failed = [task for task, state in tasks.items() if state == "failed"]
        logs = [f"{task}:\n{self.admin.log(dag_id, run_id, task, last=8)}" for task in failed]
        msg = f"run {run_id} of {dag_id} failed\n" + "\n".join(logs or [str(tasks)])
        raise RejectedError(msg)

    def expect(self, entry: Entry, op: str) -> None:
        """Insist on how something ended."""
        if entry.op != op:
            msg = f"expected {op}, the ledger says {entry.op}: {entry.reason}"
            raise RejectedError(msg)

    def airflow(self, *arguments: str) -> str:
        """Run an ``airflow`` command on the stack, as a person would."""
        program = str(Path(sys.executable).parent / "airflow")
        environment = {**os.environ, **self.stack.env()}
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            msg = f"airflow {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
            raise RejectedError(msg)
        return done.stdout

    def state(self) -> State:
        """Read the ledger; its chain is verified on the way."""
        return self.ledger.state(MODEL)

    def decision(self) -> Entry:
        """Return the monitor's newest decision."""
        found = self.state().last("retrain", "keep", "wait", "ask")
        if found is None:
            msg = f"the monitor of {MODEL} has decided nothing yet"
            raise RejectedError(msg)
        return found

    def predictions(self) -> int:
        """Count the predictions made so far."""
        return len(self.observations.served(MODEL))

    def say(self, text: str) -> None:
        """Announce a part of the story."""
        self.console.print(f"[bold]{text}[/bold]", highlight=False)

    def note(self, text: str) -> None:
        """Say what happened, and when."""
        seconds = time.time() - self.started
        self.console.print(f"  {seconds:5.0f} s  {text}", highlight=False, markup=False)


def main() -> int:
    """Live the story once; exit code 1 if it did not go as it should."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the stack then, too
    console = Console(soft_wrap=True)
    started = float(os.environ.get("DEMO_STARTED") or time.time())
    home = ROOT / ".local" / "demo"
    stack = _fresh(home)
    try:
        stack.up(lambda line: console.print(f"  {line}", highlight=False))
        story = Story(stack, console, started, os.environ.get("DEMO_APPROVE") == "me")
        seconds = {"set_up": time.time() - started}
        story.first_champion()
        seconds["first_champion"] = time.time() - started
        story.until_it_pays()
        story.broken_delivery()
        story.bad_candidate()
        story.rollback()
        story.chain()
        report = Report.of(stack, story.ledger, story.deliveries, story.weeks)
        seconds["total"] = time.time() - started
        report.show(console, seconds, ROOT / ".local")
        if sys.stdout.isatty():
            _linger(console, stack)
        else:
            console.print(AGAIN, highlight=False, markup=False)
    except MlopsError as error:
        console.print(f"{type(error).__name__}: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        stack.down()
    return 0


def _fresh(home: Path) -> Stack:
    """Stop what an earlier run may have left, and start from nothing."""
    Stack(home, ROOT / "dags").down()
    shutil.rmtree(home)
    return Stack(home, ROOT / "dags")


def _linger(console: Console, stack: Stack) -> None:
    """Leave the pages up until Ctrl-C."""
    users = ", ".join(f"{u} / {p}" for u, p in stack.settings.passwords.items())
    console.print(f"Airflow {stack.urls['airflow']} ({users}), MLflow {stack.urls['mlflow']}")
    console.print("Ctrl-C stops everything.")
    while True:
        stack.check()
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
