"""What a simulation is asked, and what it answers."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from airflow_mlops.core.data.features import CodeArchive
from airflow_mlops.core.lines import written
from airflow_mlops.policy import Gate, Retrain, Round


@dataclass(frozen=True, slots=True)
class Setting:
    """
    What is replayed.

    :param span: how much history to learn from.
    :param spans: shorter spans that are tried, as shares of ``span``.
    :param gates: conditions of a candidate; ``Loads`` is left out, nothing is saved here.
    :param features: source of ``build``.
    :param train: source of ``fit``.
    :param columns: columns that the monitors may watch; of them, they watch those that the features
        are made of.
    :param warmup: windows before the first model.
    :param delay: windows after which labels arrive.
    :param embargo: rows so shortly before the hold-out are not learnt from.
    """

    model: str
    policy: Retrain
    gates: tuple[Gate, ...]
    rounds: tuple[Round, ...]
    metric: str
    span: timedelta
    spans: tuple[float, ...]
    features: CodeArchive
    train: CodeArchive
    params: Mapping[str, Any]
    seed: int
    columns: tuple[str, ...]
    warmup: int = 26
    delay: int = 0
    embargo: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True)
class Promotion:
    """
    A model that began to serve.

    :param window: last window before it served.
    :param gain: mean loss it saved in the windows it served, beside the model before it; negative:
        the retrain did harm; none if it served no window.
    """

    window: int
    version: int
    trigger: str
    reason: str
    gain: float | None = None


@dataclass(frozen=True, slots=True)
class Alarm:
    """A window in which a monitor found something."""

    window: int
    monitor: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """
    One window as it was lived.

    :param loss: mean loss of the champion, ``never`` and ``always`` those of the other two.
    """

    window: int
    since: str
    version: int
    loss: float
    never: float
    always: float
    decision: str
    trigger: str
    reason: str


@dataclass(frozen=True, slots=True)
class Simulation:
    """
    What a policy would have done, and what that would have been worth.

    :param attempts: decisions to retrain, the first model not counted.
    :param refused: trained candidates that did not pass the gate.
    :param trained: models fitted, spans that were tried included.
    :param cpu_s: CPU seconds of the policy, its monitors and models.
    :param always_cpu_s: those of the models that were trained every window.
    :param notes: what was assumed.
    """

    model: str
    metric: str
    steps: tuple[Step, ...]
    attempts: int
    refused: int
    trained: int
    promotions: tuple[Promotion, ...]
    alarms: tuple[Alarm, ...]
    cpu_s: float
    always_cpu_s: float
    notes: tuple[str, ...] = ()

    @property
    def useless(self) -> int:
        """Retrains that saved nothing in the windows that followed."""
        later = (p.gain for p in self.promotions if p.trigger != "first")
        return sum(gain <= 0 for gain in later if gain is not None)

    @property
    def relative(self) -> float | None:
        """Mean loss over that of never retraining; none if that is nothing."""
        return self.loss() / self.loss("never") if self.loss("never") else None

    def loss(self, which: str = "loss") -> float:
        """Return the mean loss over the served windows: ``loss``, ``never`` or ``always``."""
        return float(np.mean([getattr(step, which) for step in self.steps]))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        loss, never, always = (self.loss(which) for which in ("loss", "never", "always"))
        return {
            "model": self.model,
            "metric": self.metric,
            "windows": len(self.steps),
            "loss": loss,
            "loss_never": never,
            "loss_always": always,
            "relative": self.relative,
            "attempts": self.attempts,
            "refused": self.refused,
            "useless": self.useless,
            "trained": self.trained,
            "promotions": [asdict(p) for p in self.promotions],
            "alarms": [asdict(a) | {"columns": list(a.columns)} for a in self.alarms],
            "steps": [asdict(step) for step in self.steps],
            "cpu_s": self.cpu_s,
            "always_cpu_s": self.always_cpu_s,
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        loss, never, always = (self.loss(which) for which in ("loss", "never", "always"))
        found = Counter(alarm.monitor for alarm in self.alarms)
        alarms = ", ".join(f"{name} in {n} windows" for name, n in found.items()) or "none"
        served = len(self.steps)
        return written(
            [
                f"{self.model}, {served} windows served, mean {self.metric}",
                f"  this policy  {loss:.4f}{_share(loss, never)}",
                f"  never        {never:.4f}",
                f"  always       {always:.4f}{_share(always, never)}, {served} retrains",
                f"  {self.attempts} retrains asked for, {self.refused} rounds refused, "
                f"{self.useless} promotions that saved nothing",
                f"  {self.trained} models fitted in {self.cpu_s:.0f} CPU s (always: "
                f"{served} in {self.always_cpu_s:.0f} s)",
                f"  alarms: {alarms}",
                *(f"  {note}" for note in self.notes),
                "window  promoted for  change of the loss while it served",
                *map(_promoted, self.promotions),
            ]
        )


def _share(loss: float, never: float) -> str:
    return f"  {loss / never:.3f} of never retraining" if never else ""


def _promoted(found: Promotion) -> str:
    change = "" if found.gain is None or found.trigger == "first" else f"{-found.gain:+.4f}"
    return f"{found.window:>6}  {found.trigger:<13} {change:<7}  {found.reason}"
