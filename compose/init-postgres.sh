#!/bin/sh
# Run once by the postgres image, on an empty volume: logins, databases, rights.
# The same as airflow_mlops/local/stack.py, but each service has a login of its own.
set -eu

psql --set ON_ERROR_STOP=1 --username postgres \
  --set airflow="$AIRFLOW_DB_PASSWORD" \
  --set mlflow="$MLFLOW_DB_PASSWORD" \
  --set task="$MLOPS_TASK_PASSWORD" <<'SQL'
create role airflow login password :'airflow';
create role mlflow login password :'mlflow';
create role mlops_writer nologin;  -- the migration gives it its rights
create role mlops_task login password :'task' in role mlops_writer;

create database airflow owner airflow;
create database mlflow owner mlflow;
create database warehouse;
create database mlops;
revoke connect on database airflow, mlflow from public;

\connect warehouse
alter default privileges in schema public grant select on tables to mlops_task;
SQL
