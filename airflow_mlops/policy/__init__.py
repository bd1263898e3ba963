"""
The words of a policy: frozen data that a Dag file can hold and a ledger can hash.

Nothing here does anything. A word checks its own values when it is made, so that a bad policy is
an import error of the Dag file and not a failed task at night.
"""

from airflow_mlops.policy.data import Arrival, Sql, Table, Window
from airflow_mlops.policy.gates import (
    CLASS_SCORES,
    LOSSES,
    PROBABILITIES,
    QUANTITIES,
    SCORES,
    AtLeast,
    AtMost,
    Better,
    Calibrated,
    Custom,
    Fair,
    Gate,
    Loads,
    NoLeak,
    NotWorse,
    Output,
    is_own,
    known_metric,
)
from airflow_mlops.policy.monitoring import Contract, Dependencies, FailOn, Health
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
from airflow_mlops.policy.words import Word, duration

__all__ = [
    "CLASS_SCORES",
    "LOSSES",
    "PROBABILITIES",
    "QUANTITIES",
    "SCORES",
    "Approval",
    "Arrival",
    "AtLeast",
    "AtMost",
    "Better",
    "Calibrated",
    "Contract",
    "Custom",
    "Decay",
    "Dependencies",
    "DependencyChange",
    "Drift",
    "FailOn",
    "Fair",
    "Gate",
    "Growth",
    "Health",
    "Loads",
    "MaxAge",
    "NewRows",
    "NoLeak",
    "NotWorse",
    "OnRequest",
    "Output",
    "Probe",
    "Regret",
    "Retrain",
    "Schedule",
    "SchemaChange",
    "Sql",
    "Table",
    "Trigger",
    "Window",
    "Word",
    "duration",
    "is_own",
    "known_metric",
]
