"""Rules of the package that no linter knows."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import airflow_mlops

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "airflow_mlops"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
VAGUE = re.compile(r"(^|_)(utils?|common|helpers?|managers?|misc)$")
MODULES = sorted(PACKAGE.rglob("*.py"))
ENTRY_POINTS = [
    pytest.param(group, target, id=target)
    for group, points in PROJECT["project"]["entry-points"].items()
    for target in points.values()
]


def defined_in(folder: str, base: str):
    """Yield the public classes of one folder that descend from a class of ``airflow.sdk``."""
    import airflow.sdk

    for path in sorted((PACKAGE / folder).glob("[a-z]*.py")):
        name = f"airflow_mlops.{folder}.{path.stem}"
        for _, found in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            ours = issubclass(found, getattr(airflow.sdk, base)) and found.__module__ == name
            if ours and not found.__name__.startswith("_"):
                yield found


def operators():
    return list(defined_in("operators", "BaseOperator"))


def own_parameters(found) -> dict[str, inspect.Parameter]:
    """Parameters that the classes of this package declare, by name."""
    own = [c for c in found.__mro__ if c.__module__.startswith("airflow_mlops.")]
    signatures = [inspect.signature(c.__init__) for c in own if "__init__" in vars(c)]
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = [p for s in signatures for p in s.parameters.values() if p.kind in named]
    return {p.name: p for p in reversed(found) if p.name != "self"}


def made(operator):
    """Return an operator with arguments of about the right kind; ``__init__`` only stores them."""
    kinds = {"Sequence": ["x"], "Mapping": {"x": 1}, "int": 1}
    given = {}
    for name, parameter in own_parameters(operator).items():
        if parameter.default is inspect.Parameter.empty:
            written = str(parameter.annotation)
            given[name] = next((v for k, v in kinds.items() if k in written), "x")
    given.setdefault("model", "m")
    return operator(task_id="t", **given)


@pytest.fixture(scope="module")
def manifest():
    from airflow_mlops.provider import get_provider_info

    return get_provider_info()


@pytest.mark.airflow
class TestOperators:
    def test_there_are_some(self):
        assert len(operators()) >= 16

    def test_every_template_field_is_an_attribute(self):
        for operator in operators():
            task = made(operator)
            missing = [name for name in operator.template_fields if not hasattr(task, name)]
            assert not missing, operator

    def test_every_connection_is_templated(self):
        for operator in operators():
            wanted = {p for p in own_parameters(operator) if p.endswith("_conn_id")}
            assert wanted <= set(operator.template_fields), operator

    def test_what_is_called_templated_is_templated(self):
        for operator in operators():
            text = re.sub(r"\s+", " ", operator.__doc__ or "")
            said = {
                name
                for name, meaning in re.findall(r":param (\w+): (.*?)(?= :param|$)", text)
                if "(templated)" in meaning
            }
            assert said <= set(operator.template_fields), operator

    def test_docstrings_name_every_parameter(self):
        for operator in operators():
            text = "".join(c.__doc__ or "" for c in operator.__mro__ if "mlops" in c.__module__)
            missing = [p for p in own_parameters(operator) if f":param {p}:" not in text]
            assert not missing, operator

    def test_names_say_what_they_are(self):
        for operator in operators():
            assert operator.__name__.endswith("Operator")
            assert operator.execute.__doc__, operator

    def test_what_is_stored_is_what_was_given(self):
        for operator in operators():
            task = made(operator)
            given = inspect.signature(operator.__init__).parameters
            for name in own_parameters(operator):
                default = given[name].default if name in given else inspect.Parameter.empty
                if default is not inspect.Parameter.empty:
                    assert getattr(task, name) == default, (operator, name)


@pytest.mark.airflow
class TestManifest:
    def test_it_satisfies_airflows_own_schema(self, manifest):
        import airflow
        import jsonschema

        path = Path(airflow.__file__).parent / "provider_info.schema.json"
        schema = json.loads(path.read_text("utf-8"))
        jsonschema.validate(manifest, schema)
        assert manifest.keys() <= schema["properties"].keys() | {"versions"}

    def test_every_module_that_it_names_exists(self, manifest):
        for kind in ("operators", "hooks"):
            named = {m for group in manifest[kind] for m in group["python-modules"]}
            there = {
                f"airflow_mlops.{kind}.{p.stem}" for p in (PACKAGE / kind).glob("[a-z]*.py")
            } - {"airflow_mlops.operators.links"}
            assert named == there

    def test_every_name_that_it_gives_resolves(self, manifest):
        named = [*manifest["extra-links"], *manifest["cli"]]
        named += [c["hook-class-name"] for c in manifest["connection-types"]]
        resources = ("handler", "factory", "to_openlineage_converter")
        named += [s[kind] for s in manifest["asset-uris"] for kind in resources if s.get(kind)]
        for name in named:
            assert callable(pkgutil.resolve_name(name)), name

    def test_it_knows_every_link(self, manifest):
        from airflow.sdk import BaseOperatorLink

        links = importlib.import_module("airflow_mlops.operators.links")
        there = {
            f"{links.__name__}.{name}"
            for name, found in inspect.getmembers(links, inspect.isclass)
            if issubclass(found, BaseOperatorLink)
            and found.__module__ == links.__name__
            and not name.startswith("_")
        }
        assert set(manifest["extra-links"]) == there
        used = {type(link) for o in operators() for link in o.operator_extra_links}
        assert {f"{link.__module__}.{link.__name__}" for link in used} <= there

    def test_forms_agree_with_their_hooks(self, manifest):
        for form in manifest["connection-types"]:
            hook = pkgutil.resolve_name(form["hook-class-name"])
            assert (hook.conn_type, hook.hook_name) == (form["connection-type"], form["hook-name"])
            fields = {"host", "port", "login", "password", "schema", "extra", "description"}
            behaviour = form["ui-field-behaviour"]
            for names in behaviour.values():
                assert set(names) <= fields | form["conn-fields"].keys(), form["connection-type"]
            assert not set(behaviour["hidden-fields"]) & behaviour["relabeling"].keys()

    def test_the_form_of_the_dataset_store_offers_what_its_hook_reads(self, manifest):
        from airflow_mlops.hooks.datasets import OPTIONS

        forms = {form["connection-type"]: form for form in manifest["connection-types"]}
        assert forms["dataset"]["conn-fields"].keys() == set(OPTIONS)

    def test_connections_have_the_names_that_hooks_expect(self, manifest):
        options = manifest["config"]["mlops"]["options"]
        for hook in defined_in("hooks", "BaseHook"):
            assert hook.conn_name_attr in inspect.signature(hook).parameters
            assert f":param {hook.conn_name_attr}:" in (hook.__doc__ or ""), hook
            if hook.conn_name_attr in options:
                assert options[hook.conn_name_attr]["default"] == hook.default_conn_name

    def test_it_has_the_version_of_the_package(self, manifest):
        assert manifest["package-name"] == PROJECT["project"]["name"]
        assert manifest["versions"] == [airflow_mlops.__version__]

    def test_no_option_has_a_default_that_is_not_text(self, manifest):
        for section in manifest["config"].values():
            for name, option in section["options"].items():
                assert isinstance(option["default"], str), name


@pytest.mark.airflow
@pytest.mark.parametrize(("group", "target"), ENTRY_POINTS)
def test_entry_points_resolve(group, target, tmp_path):
    code = f"import pkgutil; assert callable(pkgutil.resolve_name({target!r}))"
    environment = {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{group}: {done.stderr[-2000:]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_are_short_and_modules_have_a_subject(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400, "a room is missing"
    assert not VAGUE.search(path.stem), "name the subject"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = node.end_lineno - body[0].lineno + 1 if body else 0
            assert lines <= 40, f"{node.name} has {lines} lines"


def test_imports_keep_the_contracts():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert program, "import-linter is missing: pip install -e '.[dev]'"
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


def test_constraints_are_names_and_versions():
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    wrong = [p for p in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", p)]
    assert not wrong
    names = [re.sub(r"[-_.]+", "-", p.partition("==")[0]).lower() for p in pins]
    assert len(names) == len(set(names))


def test_constraints_pin_every_requirement():
    pins = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    }
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *(r for rs in extras.values() for r in rs)]
    names = {re.split(r"[\[<>=~! ;]", r, maxsplit=1)[0].lower() for r in wanted}
    assert names - {"airflow-mlops"} <= pins
