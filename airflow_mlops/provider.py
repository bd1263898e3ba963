"""What this package tells Airflow about itself."""

from typing import Any

from airflow_mlops import __version__

_STAGES = (
    "data",
    "training",
    "evaluation",
    "approval",
    "deployment",
    "candidates",
    "flips",
    "monitoring",
    "dependencies",
    "health",
    "retraining",
    "housekeeping",
    "reproduction",
)


def get_provider_info() -> dict[str, Any]:
    """Return the provider manifest; called by the ``apache_airflow_provider`` entry point."""
    return {
        "package-name": "airflow-mlops",
        "name": "MLOps",
        "description": "Continuous training, evaluation, promotion and monitoring of models.",
        "versions": [__version__],
        "integrations": [
            {"integration-name": "MLOps", "external-doc-url": "", "tags": ["software"]}
        ],
        "operators": _modules("operators", *_STAGES),
        "sensors": _modules("sensors", "monitoring", "rollout"),
        "triggers": _modules("triggers", "polling"),
        "hooks": _modules("hooks", "datasets", "ledger", "mlflow", "warehouse"),
        "connection-types": [_mlflow(), _dataset()],
        "extra-links": [
            f"airflow_mlops.operators.links.{name}"
            for name in ("MlflowRunLink", "ModelVersionLink", "ReportLink", "DecisionLink")
        ],
        "asset-uris": [
            {
                "schemes": ["mlops"],
                "handler": None,
                "to_openlineage_converter": "airflow_mlops.assets.to_openlineage",
            }
        ],
        "config": {"mlops": _config()},
        "cli": ["airflow_mlops.cli.definition.get_cli_commands"],
    }


def _modules(folder: str, *names: str) -> list[dict[str, Any]]:
    modules = [f"airflow_mlops.{folder}.{name}" for name in names]
    return [{"integration-name": "MLOps", "python-modules": modules}]


def _mlflow() -> dict[str, Any]:
    return {
        "connection-type": "mlflow",
        "hook-class-name": "airflow_mlops.hooks.mlflow.MlflowHook",
        "hook-name": "MLflow",
        "ui-field-behaviour": {
            "hidden-fields": ["extra"],
            "relabeling": {"schema": "http or https", "password": "Password or token"},
            "placeholders": {"host": "mlflow.example.com", "port": "5000", "schema": "http"},
        },
        "conn-fields": {
            "public_url": {
                "label": "Address for people",
                "description": "where links go, if a browser reaches MLflow by another address",
                "schema": {"type": ["string", "null"], "format": "url"},
            }
        },
    }


def _dataset() -> dict[str, Any]:
    text = {"type": ["string", "null"]}
    return {
        "connection-type": "dataset",
        "hook-class-name": "airflow_mlops.hooks.datasets.DatasetHook",
        "hook-name": "Dataset store",
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "port", "extra"],
            "relabeling": {"host": "Root", "login": "Access key", "password": "Secret key"},
            "placeholders": {"host": "s3://bucket/datasets, or a path"},
        },
        "conn-fields": {
            "AWS_ENDPOINT_URL": {"label": "Endpoint", "schema": {**text, "format": "url"}},
            "AWS_REGION": {"label": "Region", "schema": text},
            "AWS_ALLOW_HTTP": {"label": "Allow plain http", "schema": text},
            "AWS_CONDITIONAL_PUT": {
                "label": "Conditional put",
                "description": "'etag' where the store can do it: makes commits safe",
                "schema": text,
            },
        },
    }


def _config() -> dict[str, Any]:
    def option(description: str, default: str) -> dict[str, Any]:
        return {
            "description": description,
            "version_added": "0.1.0",
            "type": "string",
            "example": None,
            "default": default,
        }

    return {
        "description": "Connections used when none is named, and what follows changes by others.",
        "options": {
            "mlflow_conn_id": option("Connection to MLflow.", "mlflow_default"),
            "dataset_conn_id": option("Connection to the dataset store.", "dataset_default"),
            "ledger_conn_id": option(
                "Connection to the PostgreSQL database of schema mlops.", "mlops_default"
            ),
            "usage_folder": option(
                "Local folder where usages of tasks wait for that database.",
                "{AIRFLOW_HOME}/mlops/usages",
            ),
            "moved_alias": option(
                "When somebody moves the alias champion in MLflow: restore puts it back, adopt "
                "makes that version champion if its files are verified. Both go on record.",
                "restore",
            ),
            "foreign_commits": option(
                "When another tool changes the rows of a dataset in its Delta table: refuse stops "
                "whatever reads or adds to it until a person restores a version or adopts the rows "
                "(airflow mlops adopt), adopt takes them as they are, on record.",
                "refuse",
            ),
        },
    }
