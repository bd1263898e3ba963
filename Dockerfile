# One image for Airflow and MLflow. Build it with docker-compose, which hands over GIT_SHA.
FROM python:3.11-slim AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /src

# Dependencies first: this layer stays until the pins, the metadata or the version change.
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY airflow_mlops/__init__.py airflow_mlops/
RUN pip install --no-compile --constraint constraints.txt ".[celery]"

COPY airflow_mlops airflow_mlops
RUN pip install --no-compile --no-deps --force-reinstall . \
 && python -m compileall -q -j 0 /opt/venv/lib
# Without bytecode every task would compile what it imports: 3 CPU seconds each.


FROM python:3.11-slim

RUN useradd --uid 50000 --create-home --home-dir /opt/airflow airflow \
 && mkdir -p /opt/airflow/auth /opt/airflow/datasets /opt/airflow/logs /opt/mlflow/artifacts \
 && chown -R airflow:airflow /opt/airflow /opt/mlflow
# A new volume takes owner and mode of the folder that it covers.

COPY --from=build /opt/venv /opt/venv
COPY --chown=airflow:airflow dags /opt/airflow/dags
COPY --chown=airflow:airflow include /opt/airflow/include

# The commit that this image was built from: part of the recipe of every model it trains.
ARG GIT_SHA=""
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/airflow \
    PYTHONUNBUFFERED=1 \
    AIRFLOW_HOME=/opt/airflow \
    MLOPS_GIT_SHA=$GIT_SHA

USER airflow
WORKDIR /opt/airflow
CMD ["airflow", "version"]
