"""What a candidate asks of the rows that the champion did not: people see it beforehand."""

from collections.abc import Mapping
from typing import Any

from airflow_mlops.core.data.contract import Contract, contract_changes
from airflow_mlops.core.errors import ModelChangedError, ModelLostError, ModelNotFoundError
from airflow_mlops.core.refs import ModelRef
from airflow_mlops.core.training.models import ModelStore


def contract_against(
    models: ModelStore, champion: ModelRef | None, about: Mapping[str, Any], *, named: bool = True
) -> tuple[str, ...]:
    """
    Name the changes of the contract, such as a column that was adopted; nothing without a champion.

    A champion whose files are gone can still be replaced: then that is what is said.

    :param about: facts that travel with the candidate.
    :param named: whether values are named; else they are counted.
    """
    if champion is None:
        return ()
    try:
        before = Contract.from_dict(models.about(champion)["contract"])
    except (ModelNotFoundError, ModelChangedError, ModelLostError) as error:
        return (f"the contract of {champion} cannot be read: {error}",)
    return contract_changes(before, Contract.from_dict(about["contract"]), named=named)
