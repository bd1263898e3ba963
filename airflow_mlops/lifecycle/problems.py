"""What cannot work in a declaration; found at night, it would be a failed task."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions._internal.contextmanager import DagContext

from airflow_mlops.core.errors import ConfigurationError
from airflow_mlops.policy import (
    CLASS_SCORES,
    LOSSES,
    PROBABILITIES,
    QUANTITIES,
    Approval,
    Contract,
    Decay,
    Dependencies,
    Gate,
    Guarded,
    Health,
    Keep,
    Probe,
    Shadow,
    Trigger,
    Word,
    duration,
    further_rounds,
    is_own,
    known_metric,
    rollout_plan,
)

if TYPE_CHECKING:
    from airflow_mlops.lifecycle.declaration import Lifecycle


def problems(life: "Lifecycle") -> Iterator[str]:
    """Say what cannot work; found at night, it would be a failed task."""
    lists = {
        "gates": life.gates,
        "retrain": life.retrain,
        "slices": life.slices,
        "rollout": life.rollout,
        "rollback": life.rollback,
    }
    yield from (
        f"{what}={words!r} is no list of words; write {what}=[...]"
        for what, words in lists.items()
        if not isinstance(words, list | tuple)
    )
    if not isinstance(life.approve, Approval):
        yield f"approve={life.approve!r}: a person approves every champion, name one: Approval(by)"
    kinds = {"contract": Contract, "dependencies": Dependencies, "health": Health}
    yield from (
        f"{name}={getattr(life, name)!r}; write {name}={word.__name__}(...)"
        for name, word in kinds.items()
        if not isinstance(getattr(life, name), word)
    )
    yield from _keeps(life)
    yield from (f"{word!r} is not a trigger" for word in life.retrain if not _is(word, Trigger))
    yield from (f"{word!r} is not a gate" for word in life.gates if not _is(word, Gate))
    back: Sequence[object] = life.rollback
    strangers = [word for word in back if not isinstance(word, Decay)]
    yield from (f"{word!r} is no reason to roll back; write Decay(...)" for word in strangers)
    yield from _objections(rollout_plan, life.rollout)
    yield from _objections(further_rounds, life.rounds)
    yield from _stages(life)
    yield from _metrics(life)
    if all(getattr(word, "fail_on", "") == "never" for word in life.gates):
        yield "there are no gates that count, and a candidate needs a standard"


def _keeps(life: "Lifecycle") -> Iterator[str]:
    """Say what would go before anybody could measure it."""
    if life.keep is not None and not isinstance(life.keep, Keep):
        yield f"keep={life.keep!r}; write keep=Keep(...)"
        return
    age, late = (life.keep and life.keep.predictions), life.data.lateness
    if age and late and duration(age) <= duration(late):
        yield f"predictions are kept for {age}, and labels come up to {late} late: keep them longer"


def _objections(check: Callable[[Any], object], words: object) -> Iterator[str]:
    """Say what the words themselves have against each other."""
    try:
        check(words)
    except ValueError as error:
        yield str(error)


def _stages(life: "Lifecycle") -> Iterator[str]:
    """Say which stages have nothing to compare."""
    stages: Sequence[object] = life.rollout
    for stage in (s for s in stages if isinstance(s, Guarded)):
        other = stage.metric is not None and stage.metric != life.metric
        if other and isinstance(stage, Shadow):
            yield f"{stage}: a shadow compares metric={life.metric!r}; leave its metric out"
        elif other and stage.baseline is None:
            yield (
                f"{stage} compares {stage.metric!r}: say what it is on average now, baseline=..., "
                "and let whoever serves record outcomes of that name"
            )


def _metrics(life: "Lifecycle") -> Iterator[str]:
    """Say which metrics do not go together."""
    if life.metric not in LOSSES and not is_own(life.metric):
        known = ", ".join(LOSSES)
        yield f"unknown metric {life.metric!r}; known: {known}, or your own 'module:function'"
    if is_own(life.metric):
        try:
            known_metric("metric", life.metric)
        except ValueError as error:
            yield str(error)
    for word in (*life.retrain, *life.rollback):
        if isinstance(word, Probe | Decay) and word.metric != life.metric:
            yield f"{word} compares in another loss than metric={life.metric!r}; give them one"
    for gate in life.gates:
        name = getattr(gate, "metric", None)
        wrong = {
            QUANTITIES: name in CLASS_SCORES or name in PROBABILITIES,
            PROBABILITIES: name == "r2" or name in QUANTITIES,
        }
        if any(is_wrong for kind, is_wrong in wrong.items() if life.metric in kind):
            yield f"{gate} does not go with metric={life.metric!r}; choose one of its kind"


def _is(word: object, kind: type[Word]) -> bool:
    """Say whether this is one of the words of a kind; the kind itself says nothing."""
    return isinstance(word, kind) and type(word) is not kind


def refuse_twin(dag_id: str) -> None:
    """
    Refuse a second lifecycle of one name in one Dag file: Airflow would keep one of them silently.

    :raises ConfigurationError: if a Dag of that id was made by the file that is being parsed.
    """
    module = DagContext.current_autoregister_module_name
    for dag, found in DagContext.autoregistered_dags:
        if module is not None and dag.dag_id == dag_id and found.__name__ == module:
            name = dag_id.removesuffix("__monitor")
            msg = f"two lifecycles are named {name!r} in one Dag file; give each model its own name"
            raise ConfigurationError(msg)
