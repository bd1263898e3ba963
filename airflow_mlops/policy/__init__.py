"""
The words of a policy: frozen data that a Dag file can hold and a ledger can hash.

Nothing here does anything. A word checks its own values when it is made, so that a bad policy is
an import error of the Dag file and not a failed task at night.
"""

from airflow_mlops.policy.data import Arrival, Sql, Table, Window
from airflow_mlops.policy.gates import (
    LOSSES,
    PROBABILITIES,
    AtLeast,
    AtMost,
    Better,
    Gate,
    Loads,
    NotWorse,
)
from airflow_mlops.policy.monitoring import Contract, Dependencies, Health
from airflow_mlops.policy.people import Approval
from airflow_mlops.policy.retraining import (
    Decay,
    DependencyChange,
    Drift,
    Growth,
    MaxAge,
    NewRows,
    OnRequest,
    Probe,
    Regret,
    Retrain,
    Schedule,
    SchemaChange,
    Trigger,
)
from airflow_mlops.policy.rollout import (
    AB,
    Canary,
    Full,
    Guarded,
    Shadow,
    Stage,
    rollout_plan,
    share_of,
)
from airflow_mlops.policy.words import Word, duration

__all__ = [
    "AB",
    "LOSSES",
    "PROBABILITIES",
    "Approval",
    "Arrival",
    "AtLeast",
    "AtMost",
    "Better",
    "Canary",
    "Contract",
    "Decay",
    "Dependencies",
    "DependencyChange",
    "Drift",
    "Full",
    "Gate",
    "Growth",
    "Guarded",
    "Health",
    "Loads",
    "MaxAge",
    "NewRows",
    "NotWorse",
    "OnRequest",
    "Probe",
    "Regret",
    "Retrain",
    "Schedule",
    "SchemaChange",
    "Shadow",
    "Sql",
    "Stage",
    "Table",
    "Trigger",
    "Window",
    "Word",
    "duration",
    "rollout_plan",
    "share_of",
]
