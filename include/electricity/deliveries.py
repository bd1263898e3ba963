"""The market as a production database sees it: rows week by week, labels a week later."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

WEEK = 336
"""Half hours in a week."""

OPENING_ROW = 17_424
"""First row of the interstate market."""

INPUTS = ("day", "period", "nswdemand", "vicprice", "vicdemand", "transfer")

_TABLES = """
drop table if exists electricity, electricity_labels;
create table electricity (
  id bigint primary key,
  observed_at timestamptz not null,
  day smallint not null,
  period double precision not null,
  nswdemand double precision not null,
  vicprice double precision not null,
  vicdemand double precision not null,
  transfer double precision not null
);
create table electricity_labels (
  id bigint primary key,
  observed_at timestamptz not null,
  price_up smallint not null
);
create index on electricity (observed_at);
create index on electricity_labels (observed_at);
"""

_BREAK = """
alter table electricity rename column vicdemand to vic_demand;
alter table electricity alter column transfer type text using transfer || ' MW';
"""

_MEND = """
alter table electricity rename column vic_demand to vicdemand;
alter table electricity alter column transfer type double precision
  using replace(transfer, ' MW', '')::double precision;
"""


@dataclass(frozen=True)
class Deliveries:
    """
    Delivers the history into the two tables of the policy.

    :param dsn: libpq connection string of the table's owner.
    """

    dsn: str = field(repr=False)

    @cached_property
    def history(self) -> pd.DataFrame:
        """All half hours, one row each, in the order of time."""
        return pd.read_parquet(Path(__file__).with_name("electricity.parquet"))

    def create(self) -> None:
        """Make the two tables, empty."""
        self._execute(_TABLES)

    def rows(self, first: int, last: int) -> None:
        """Deliver the rows of the weeks ``first`` to ``last``, without their labels."""
        self._copy("electricity", INPUTS, first, last)

    def labels(self, first: int, last: int) -> None:
        """Deliver the labels of the weeks ``first`` to ``last``."""
        self._copy("electricity_labels", ("target",), first, last)

    def break_columns(self) -> None:
        """What a careless change at the source does: one column renamed, another one now text."""
        self._execute(_BREAK)

    def mend_columns(self) -> None:
        """Undo :meth:`break_columns`."""
        self._execute(_MEND)

    def week(self, number: int) -> pd.DataFrame:
        """Return the rows of one week."""
        return self.history.iloc[number * WEEK : (number + 1) * WEEK]

    def truth(self, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return the labels of one week, shape ``(336,)``."""
        return self.week(number)["target"].to_numpy(float)

    def _copy(self, table: str, columns: tuple[str, ...], first: int, last: int) -> None:
        part = self.history.iloc[first * WEEK : (last + 1) * WEEK]
        out = part[list(columns)].assign(observed_at=part["timestamp"].astype(str) + "+00")
        out = out.rename_axis("id").reset_index()[["id", "observed_at", *columns]]
        into = sql.SQL("copy {} from stdin (format csv)").format(sql.Identifier(table))
        with psycopg.connect(self.dsn) as connection, connection.cursor().copy(into) as copy:
            copy.write(out.to_csv(index=False, header=False))

    def _execute(self, statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statements.encode())
