"""Hook for the ledger, and the tables beside it."""

from typing import TYPE_CHECKING

from airflow.sdk import BaseHook

from airflow_mlops.hooks._postgres import postgres_dsn

if TYPE_CHECKING:
    from airflow_mlops.core.ledger import Ledger
    from airflow_mlops.core.monitoring.observations import Observations


class LedgerHook(BaseHook):
    """
    Open the database that holds schema ``mlops``.

    Its *extra* may hold ``signing_key``: a secret that every entry is signed with, or several with
    commas between them, the newest first. With it, an entry without a signature is not believed.

    :param ledger_conn_id: Airflow connection of type ``postgres``; its login has role
        ``mlops_writer``.
    """

    conn_name_attr = "ledger_conn_id"
    default_conn_name = "mlops_default"
    conn_type = "postgres"
    hook_name = "MLOps ledger"

    def __init__(self, ledger_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.ledger_conn_id = ledger_conn_id

    def get_conn(self) -> "Ledger":
        """Return the ledger; nothing is opened yet."""
        from airflow_mlops.core.chain import Signer
        from airflow_mlops.core.ledger import Ledger

        keys = str(self.get_connection(self.ledger_conn_id).extra_dejson.get("signing_key") or "")
        known = tuple(filter(None, (key.strip() for key in keys.split(","))))
        return Ledger(self.dsn(), Signer(known))

    def observations(self) -> "Observations":
        """Return the findings and predictions of the same database."""
        from airflow_mlops.core.monitoring.observations import Observations

        return Observations(self.dsn())

    def dsn(self) -> str:
        """Return the libpq connection string; it holds the password."""
        return postgres_dsn(self.ledger_conn_id)
