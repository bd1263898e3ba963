"""The definition of the verbs is imported by every ``airflow`` command."""

import os
import subprocess
import sys

import pytest

from tests.operators import airflow_home  # noqa: F401  (before anything of Airflow)

pytestmark = pytest.mark.airflow

HEAVY = ("mlflow", "pandas", "numpy", "pyarrow", "deltalake", "psycopg", "sklearn")

PROGRAM = """
import sys
import airflow.cli.cli_config
before = set(sys.modules)
from airflow_mlops.cli.definition import get_cli_commands
get_cli_commands()
print(*sorted(set(sys.modules) - before))
"""


def test_loads_nothing():
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "airflow_mlops.cli.definition" in loaded
    assert not {m for m in loaded if m.startswith(("airflow_mlops.cli.verbs", *HEAVY))}


def test_every_verb_has_a_function_and_can_print_json():
    from airflow_mlops.cli import datasets, doctor, monitoring, policies, verbs, versions
    from airflow_mlops.cli.definition import get_cli_commands

    (group,) = get_cli_commands()
    assert group.name == "mlops"
    for verb in group.subcommands:
        modules = (verbs, versions, datasets, monitoring, policies, doctor)
        found = [getattr(module, verb.name, None) for module in modules]
        assert len([function for function in found if callable(function)]) == 1
        assert "--json" in [flag for arg in verb.args for flag in arg.flags]
