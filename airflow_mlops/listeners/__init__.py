"""Listeners: what Airflow tells about tasks while they run; they change nothing and never raise."""
