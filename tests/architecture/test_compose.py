"""docker-compose.yaml: read by the real program, compared with the local stack, free of secrets."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from airflow_mlops.local.settings import COMMON, PRELOAD, Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text("utf-8")
COMPONENTS = ("api-server", "scheduler", "dag-processor", "triggerer", "worker")
AIRFLOW = ("airflow-init", *COMPONENTS)
CONNECTION = "AIRFLOW_CONN_"


def config(env_file: Path) -> subprocess.CompletedProcess[str]:
    """Let docker-compose read, complete and check the file; needs no daemon."""
    program = shutil.which("docker-compose")
    if program is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("docker-compose is missing: apt-get install docker-compose")
    command = [program, "--env-file", str(env_file), "config"]
    clean = {"PATH": str(Path(program).parent), "HOME": "/nonexistent"}
    return subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def services():
    """Services after interpolation, with the values of .env.example."""
    done = config(ROOT / ".env.example")
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)["services"]


@pytest.fixture
def project(tmp_path):
    """A copy of what the scripts need, where they may write."""
    shutil.copytree(ROOT / "compose", tmp_path / "compose")
    shutil.copy(ROOT / ".env.example", tmp_path)
    return tmp_path


def variables(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def run(project: Path, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(project / "compose" / script)]
    clean = {"PATH": "/usr/bin:/bin", **environment}
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("service", AIRFLOW)
def test_airflow_runs_with_the_settings_of_the_local_stack(services, service):
    found = services[service]["environment"]
    assert {name: str(found.get(name)) for name in COMMON} == COMMON


@pytest.mark.parametrize("service", AIRFLOW)
def test_connections_are_those_of_the_local_stack(services, service, tmp_path):
    local = Settings.of(tmp_path).connections(tmp_path, "socket")
    found = {k: v for k, v in services[service]["environment"].items() if k.startswith(CONNECTION)}
    assert found.keys() == local.keys()
    for name, text in found.items():
        here, there = json.loads(text), json.loads(local[name])
        for word in ("conn_type", "schema"):
            assert here.get(word) == there.get(word), name
        if service != "airflow-init":
            assert here.get("login") == there.get("login"), name


def test_only_the_migration_logs_in_as_superuser(services):
    for name in COMPONENTS:
        assert "POSTGRES_PASSWORD" not in services[name]["environment"]
        text = json.dumps(services[name]["environment"])
        assert '\\"login\\": \\"postgres\\"' not in text, name


def test_the_api_server_is_warm_before_a_task_meets_it(services):
    assert "/execution/health/ping" in " ".join(services["api-server"]["healthcheck"]["test"])
    for name in COMPONENTS[1:]:
        assert services[name]["depends_on"]["api-server"]["condition"] == "service_healthy", name


def test_services_start_in_the_order_that_they_need_each_other(services):
    def waits_for(name):
        return {n: d["condition"] for n, d in services[name].get("depends_on", {}).items()}

    done, healthy = "service_completed_successfully", "service_healthy"
    assert waits_for("postgres") == {"secrets": done}
    assert waits_for("airflow-init") == waits_for("mlflow") == {"postgres": healthy}
    assert waits_for("api-server") == {"airflow-init": done}
    assert waits_for("scheduler")["redis"] == healthy
    assert waits_for("worker") == dict.fromkeys(("api-server", "redis", "mlflow"), healthy)
    assert services["worker"]["scale"] == 2


def test_whoever_is_waited_for_can_tell_that_it_is_healthy(services):
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], name


def test_logs_of_every_worker_are_read_from_one_volume(services):
    for name in COMPONENTS:
        assert any(
            "logs" in str(v) and "/opt/airflow/logs" in str(v) for v in mounts(services[name])
        )
    assert "--skip-serve-logs" not in TEXT


def mounts(service) -> list[str]:
    """Volumes as text; the program's versions 1 and 2 write them differently."""
    return [v if isinstance(v, str) else f"{v['source']}:{v['target']}" for v in service["volumes"]]


def test_ports_are_open_to_this_machine_only(services):
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    for port in ports:
        host = port.split(":")[0] if isinstance(port, str) else port["host_ip"]
        assert host == "127.0.0.1", port


def test_no_secret_has_a_default():
    used = re.findall(r"\$\{(\w+)(:?[-?+]?)", TEXT)
    secrets = {(name, how) for name, how in used if re.search("PASSWORD|SECRET|KEY", name)}
    assert len(secrets) == 11
    assert {how for _, how in secrets} == {":?"}
    assert "change-me" not in TEXT


def test_env_example_names_every_variable():
    example = (ROOT / ".env.example").read_text("utf-8")
    required = set(re.findall(r"\$\{(\w+):\?", TEXT))
    optional = set(re.findall(r"\$\{(\w+):-", TEXT))
    assert variables(ROOT / ".env.example").keys() == required
    assert set(re.findall(r"^# (\w+)=", example, re.MULTILINE)) == optional


@pytest.mark.parametrize("left_out", sorted(variables(ROOT / ".env.example")))
def test_nothing_starts_without_a_secret(left_out, tmp_path):
    kept = {k: v for k, v in variables(ROOT / ".env.example").items() if k != left_out}
    (tmp_path / "env").write_text("".join(f"{k}={v}\n" for k, v in kept.items()))
    done = config(tmp_path / "env")
    assert done.returncode != 0
    assert left_out in done.stderr


def test_the_first_service_sees_every_secret_and_refuses_the_example(services, project):
    seen = services["secrets"]["environment"]
    assert seen == variables(ROOT / ".env.example")
    done = run(project, "check-secrets.sh", **seen)
    assert done.returncode == 1
    assert "is not set" in done.stderr


def test_new_secrets_are_accepted_and_private(project):
    assert run(project, "new-env.sh").returncode == 0
    found = variables(project / ".env")
    assert found.keys() == variables(ROOT / ".env.example").keys()
    assert len(set(found.values())) == len(found)
    assert (project / ".env").stat().st_mode & 0o077 == 0
    assert run(project, "check-secrets.sh", **found).returncode == 0


def test_an_env_that_is_there_stays(project):
    (project / ".env").write_text("POSTGRES_PASSWORD=mine\n")
    assert run(project, "new-env.sh").returncode != 0
    assert (project / ".env").read_text() == "POSTGRES_PASSWORD=mine\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("POSTGRES_PASSWORD", "with@sign"),
        ("REDIS_PASSWORD", ""),
        ("AIRFLOW_JWT_SECRET", "abc"),
    ],
)
def test_secrets_that_would_break_later_are_refused_first(project, name, value):
    run(project, "new-env.sh")
    done = run(project, "check-secrets.sh", **{**variables(project / ".env"), name: value})
    assert done.returncode == 1
    assert name in done.stderr
    assert not value or value not in done.stderr


def test_the_image_has_pinned_requirements_bytecode_a_commit_and_no_root(services):
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    installs = re.findall(r"pip install ([^&\n]*)", text)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in i or "--no-deps" in i for i in installs)
    assert "[celery]" in text
    assert "compileall" in text
    assert re.search(r'ARG GIT_SHA=""\n(.*\n)*.*MLOPS_GIT_SHA=\$GIT_SHA', text)
    assert text.index("USER airflow") < text.index("CMD")
    for name in (*AIRFLOW, "mlflow"):
        assert services[name]["image"] == "airflow-mlops:local"
        assert "GIT_SHA" in services[name]["build"]["args"]


def test_the_image_is_not_given_secrets():
    rules = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in rules
    assert not any(rule.startswith("!") and ("env" in rule or rule == "!.") for rule in rules)


def test_mlflow_is_quiet_and_known_by_its_name(services):
    found = services["mlflow"]["environment"]
    assert found["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert {k: found.get(k) for k in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")} == {
        k: COMMON[k] for k in ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    }
    connection = json.loads(services["worker"]["environment"]["AIRFLOW_CONN_MLFLOW_DEFAULT"])
    address = f"{connection['host']}:{connection['port']}"
    assert address in found["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")


@pytest.mark.airflow
def test_workers_import_what_tasks_need_before_they_fork(services, tmp_path):
    """In a process of its own; with a Celery that the provider cannot use it fails."""
    path = services["worker"]["environment"]["AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS"]
    code = (
        "from airflow.providers.celery.executors.celery_executor import app\n"
        f"assert app.conf.imports == {PRELOAD!r}, app.conf.imports\n"
    )
    environment = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CELERY__CELERY_CONFIG_OPTIONS": path,
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
