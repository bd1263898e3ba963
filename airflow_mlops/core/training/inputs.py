"""The dataset versions a run read, as its page in MLflow describes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from airflow_mlops.core.data.contract import logical_types
from airflow_mlops.core.data.tables import Table

_COLSPEC = {"integer": "long", "number": "double", "timestamp": "datetime"}
"""Logical types that MLflow calls otherwise."""


@dataclass(frozen=True, slots=True)
class DataInput:
    """
    A dataset version that a run read.

    :param role: ``rows`` or ``labels``.
    :param since: first time that was read, ISO 8601 (inclusive).
    :param until: end, ISO 8601 (exclusive).
    :param made: who made the version, when, from where: author, created_at, origin,
        hash of the query, run.
    :param columns: column -> logical type; empty if unknown.
    """

    ref: str
    digest: str
    role: str
    since: str
    until: str
    made: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, role: str, since: str, until: str) -> Self:
        """Describe an opened version; parameters as those of the class."""
        commit = table.sidecar.commit
        made = {
            "author": commit.author,
            "created_at": commit.created_at,
            "origin": commit.origin,
            "query_hash": commit.query_hash,
            "run": commit.run,
        }
        columns = logical_types(table.schema)
        return cls(str(table.ref), table.digest, role, since, until, made, columns)

    @property
    def source(self) -> str:
        """Where it came from, as JSON."""
        return json.dumps({"version": self.ref, "digest": self.digest, **self.made})

    @property
    def schema(self) -> str | None:
        """Columns and types, as MLflow shows them; nothing if they are unknown."""
        columns = [
            {"name": name, "type": _COLSPEC.get(kind, kind)} for name, kind in self.columns.items()
        ]
        return json.dumps({"mlflow_colspec": columns}) if columns else None
