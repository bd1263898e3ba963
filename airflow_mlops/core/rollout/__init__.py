"""
Rollout: a candidate meets production step by step, and evidence decides whether it goes on.

Importing this needs neither MLflow nor pandas: an endpoint can assign keys with it.
"""

from airflow_mlops.core.rollout.assignment import Assigned, Split, assign, assign_all
from airflow_mlops.core.rollout.stages import Begun, begin, end, next_stage

__all__ = ["Assigned", "Begun", "Split", "assign", "assign_all", "begin", "end", "next_stage"]
