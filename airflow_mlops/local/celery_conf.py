"""
Celery's configuration for docker-compose.yaml: Airflow's own, and what workers import once.

Named by ``[celery] celery_config_options``. A task is a fork of its worker, so it has these
modules for nothing.
"""

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

from airflow_mlops.local.settings import PRELOAD

CONFIG = {**DEFAULT_CELERY_CONFIG, "imports": PRELOAD}
