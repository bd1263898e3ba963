#!/bin/sh
# Run to its end before anything else of Airflow starts: passwords of the pages, both schemas.
set -eu

umask 077
printf '{"admin": "%s", "ml-lead": "%s"}\n' "$AIRFLOW_ADMIN_PASSWORD" "$AIRFLOW_ML_LEAD_PASSWORD" \
  > "$AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"
airflow db migrate
airflow mlops migrate
