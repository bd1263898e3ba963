"""A picture of a simulation: the losses window by window, and when it retrained."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.core.retraining.simulation import Simulation

KINDS = (".pdf", ".png", ".svg")
SMOOTH = 4
"""Windows of which a line shows the mean."""


def draw(found: Simulation, path: Path) -> None:
    """
    Draw it.

    :param path: file to write, ``.png``, ``.svg`` or ``.pdf``.
    :raises ConfigurationError: if it is another kind of file, or cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    windows = [step.window for step in found.steps]
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for which, name, colour in (
        ("never", "never retrained", "#9a9a9a"),
        ("always", "retrained every window", "#7fb3d5"),
        ("loss", "this policy", "#c0392b"),
    ):
        losses = np.array([getattr(step, which) for step in found.steps])
        label = f"{name}: {losses.mean():.4f}"
        above.plot(windows, _smooth(losses), color=colour, label=label, lw=1.8)
    for promotion in found.promotions:
        useless = promotion.trigger != "first" and (promotion.gain or 0.0) <= 0
        style = {"color": "#888888", "ls": ":"} if useless else {"color": "#27ae60", "ls": "--"}
        above.axvline(promotion.window + 0.5, lw=0.9, **style)
    above.set_ylabel(f"{found.metric}, mean of {SMOOTH} windows")
    above.set_title(
        f"{found.model}: {found.attempts} retrains (dashed; dotted: saved nothing), "
        f"{found.relative or 1:.3f} of the loss of never retraining",
        loc="left",
        fontsize=10,
    )
    above.legend(frameon=False, loc="upper left", fontsize=9)
    steps = np.array([step.loss - step.never for step in found.steps])
    below.plot(windows, np.cumsum(steps), color="#c0392b", lw=1.6)
    below.axhline(0, color="#9a9a9a", lw=0.8)
    below.set_ylabel("sum of\ndifferences")
    below.set_xlabel("window")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        msg = f"cannot write {path}: {error}"
        raise ConfigurationError(msg) from error


def check_plot(path: Path) -> None:
    """
    See that a picture can be drawn into a file, before hours of work.

    :raises ConfigurationError: if it is another kind of file, or its folder is not there.
    """
    if path.suffix not in KINDS:
        msg = f"cannot draw into {path}: give a file that ends in {', '.join(KINDS)}"
        raise ConfigurationError(msg)
    if not path.parent.is_dir():
        msg = f"cannot write {path}: there is no folder {path.parent}"
        raise ConfigurationError(msg)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - SMOOTH, 0)
    return np.asarray((total[ends] - total[starts]) / (ends - starts))
