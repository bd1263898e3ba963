"""
Code of a user, archived: identified by what it does, and loaded under a name of its own.

``build(rows, **params) -> frame`` and ``fit(X, y, *, seed, **params) -> estimator`` are plain
functions named ``"module:function"``. Their source travels with the model and is loaded from there,
never by the author's import path, so that two versions of one module can live in one process.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from airflow_mlops.core.errors import (
    ConfigurationError,
    UserCodeError,
    refuse_exhausted,
)
from airflow_mlops.core.refs import canonical_digest, canonical_json, plain_params
from airflow_mlops.core.scratch import scratch_folder

MAIN = "__init__.py"
PARAMS = "params.json"
"""File of the parameters; the loader that is shipped with a model knows the same name."""


@dataclass(frozen=True, slots=True)
class CodeArchive:
    """
    The source of one function, with the modules of its own folder that it imports.

    :param name: where it came from, ``module:function``.
    :param files: file name -> source; ``__init__.py`` holds the function.
    :param params: parameters that the function is always called with; plain JSON types.
    """

    name: str
    files: Mapping[str, str]
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def function(self) -> str:
        """Name of the function."""
        return self.name.partition(":")[2]

    @property
    def digest(self) -> str:
        """
        Digest of what the code does, 16 hexadecimal digits.

        Comments, docstrings and formatting do not count.
        """
        trees = {name: ast.dump(_without_docstrings(text)) for name, text in self.files.items()}
        return canonical_digest([self.function, trees])[:16]

    @property
    def modules(self) -> tuple[str, ...]:
        """Top-level names of the installed packages it imports, sorted."""
        nodes = (node for text in self.files.values() for node in ast.walk(ast.parse(text)))
        found = {name.partition(".")[0] for node in nodes for name in _absolute(node)}
        return tuple(sorted(found - sys.stdlib_module_names))

    @property
    def accepts(self) -> tuple[str, ...] | None:
        """Names of the parameters that the function can be given; ``None``: any."""
        nodes = ast.parse(self.files[MAIN]).body
        named = (n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == self.function)
        given = next(named).args
        if given.kwarg is not None:
            return None
        return tuple(one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs))

    def save(self, folder: Path) -> None:
        """Write the files into ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        if self.params:
            (folder / PARAMS).write_text(canonical_json(self.params), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path, name: str) -> Self:
        """Read the archive that :meth:`save` wrote."""
        files = {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.py")}
        path = folder / PARAMS
        return cls(name, files, json.loads(path.read_text("utf-8")) if path.is_file() else {})

    def load(self, folder: Path) -> Callable[..., Any]:
        """
        Import the saved archive under a module name of its own, and return the function.

        It is bound to the archive's parameters: whoever calls it gives the rows only.

        :param folder: where :meth:`save` put the files; it has to outlive the function.
        :raises UserCodeError: if the module fails to import or lacks the function, or the function
            does not take these parameters.
        """
        content = hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:16]
        name = f"_mlops_{self.function}_{content}"
        module = sys.modules.get(name) or _import(name, folder / MAIN, self.name)
        module.__path__ = [str(folder)]  # the folder it was first imported from may be gone
        found = getattr(module, self.function, None)
        if not callable(found):
            msg = f"{self.name}: module has no function {self.function!r}"
            raise UserCodeError(msg)
        if not self.params:
            return found  # type: ignore[no-any-return]
        _check_params(self.name, found, self.params)
        return partial(found, **self.params)

    def check(self) -> None:
        """
        Import it once, to see early whether it can be used here.

        :raises UserCodeError: as :meth:`load` does.
        """
        with scratch_folder("code") as scratch:
            self.save(scratch)
            self.load(scratch)


def archive(name: str, params: object = None) -> CodeArchive:
    """
    Collect the source of ``"module:function"``.

    The module may import installed packages and, relatively, modules of its own folder.

    :param params: parameters that the function is always called with.
    :raises ConfigurationError: if the name is malformed, the module is not found, or the parameters
        are not plain JSON.
    :raises UserCodeError: if the source does not parse, lacks the function, or imports something
        that would not travel with the model; the line is named.
    """
    module, colon, function = name.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), function]):
        msg = f"not a function name: {name!r} (expected 'module:function')"
        raise ConfigurationError(msg)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:  # ValueError: __main__ of a notebook has no spec
        msg = f"{name}: cannot find module {module!r}: {error}"
        raise ConfigurationError(msg) from error
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        msg = f"{name}: cannot find module {module!r}; is its folder on PYTHONPATH?"
        raise ConfigurationError(msg)
    files: dict[str, str] = {}
    _collect(Path(spec.origin), MAIN, files)
    tree = ast.parse(files[MAIN])
    if not any(isinstance(n, ast.FunctionDef) and n.name == function for n in tree.body):
        msg = f"{name}: {spec.origin} defines no function {function!r} at top level"
        raise UserCodeError(msg)
    return CodeArchive(name, files, plain_params(name, {} if params is None else params))


def feature_version(code: CodeArchive, columns: Mapping[str, str]) -> str:
    """
    Return the version of a feature set, ``fs-`` and 16 hexadecimal digits.

    :param code: source of the ``build`` function, with its parameters.
    :param columns: input column -> logical type.
    """
    parts = [code.digest, sorted(columns.items()), *([dict(code.params)] if code.params else [])]
    return "fs-" + canonical_digest(parts)[:16]


def _check_params(name: str, function: Callable[..., Any], params: Mapping[str, Any]) -> None:
    """Hold parameters against the signature, before anything is computed."""
    takes = list(inspect.signature(function).parameters.values())
    rows, others = takes[0].name if takes else "", takes[1:]
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = {p.name: p.default is p.empty for p in others if p.kind in by_name}
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in others)
    wrong = [n for n in params if n == rows or not (anything or n in known)]
    if wrong:
        taken = f" ({rows!r} is its first argument, the rows)" if rows in wrong else ""
        has = ", ".join(map(repr, known)) or "none"
        msg = f"{name} takes no parameter {', '.join(map(repr, wrong))}{taken}; it has {has}"
        raise UserCodeError(msg)
    absent = [n for n, required in known.items() if required and n not in params]
    if absent:
        msg = (
            f"{name} needs parameter {', '.join(map(repr, absent))}; given are {', '.join(params)}"
        )
        raise UserCodeError(msg)


def _collect(path: Path, name: str, files: dict[str, str]) -> None:
    """Read one file and, through its relative imports, the others of its folder."""
    text = path.read_text(encoding="utf-8")
    try:
        tree = ast.parse(text, str(path))
    except SyntaxError as error:
        msg = f"{path}:{error.lineno}: does not parse: {error.msg}"
        raise UserCodeError(msg) from error
    files[name] = text
    for node in ast.walk(tree):
        for module in _absolute(node):
            _check_travels(module, path, node.lineno)  # type: ignore[attr-defined]
        for sibling in _siblings(node, path):
            if f"{sibling}.py" not in files:
                _collect(path.with_name(f"{sibling}.py"), f"{sibling}.py", files)


def _absolute(node: ast.AST) -> list[str]:
    """Modules that one statement imports by their full name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def _siblings(node: ast.AST, path: Path) -> list[str]:
    """Modules of the same folder that one statement imports."""
    if not isinstance(node, ast.ImportFrom) or node.level == 0:
        return []
    names = [node.module] if node.module else [alias.name for alias in node.names]
    for name in names:
        if node.level > 1 or "." in name or not path.with_name(f"{name}.py").is_file():
            msg = (
                f"{path}:{node.lineno}: relative import of {name!r} does not travel with the "
                f"model; only modules of the folder {path.parent.name!r} do"
            )
            raise UserCodeError(msg)
    return names


def _check_travels(module: str, path: Path, line: int) -> None:
    """Refuse an import that only this checkout can satisfy."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return
    spec = importlib.util.find_spec(top)
    homes = tuple(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    places = [spec.origin or "", *(spec.submodule_search_locations or [])] if spec else []
    if any(place.startswith(homes) for place in places):
        return
    msg = (
        f"{path}:{line}: import of {module!r} does not travel with the model: it is neither an "
        "installed package nor, imported relatively, a module of the same folder"
    )
    raise UserCodeError(msg)


def _without_docstrings(text: str) -> ast.Module:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _import(name: str, path: Path, source: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    if spec is None or spec.loader is None:
        msg = f"{source}: cannot load {path}"
        raise UserCodeError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's module may raise anything
        del sys.modules[name]
        refuse_exhausted(source, error)
        msg = f"{source}: importing it failed: {type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError) and error.name:
            package = error.name.partition(".")[0]
            msg += (
                f"; it was archived where {package!r} is installed: install that here (pip install "
                f"{package}, or what the requirements.txt of a model trained with it pins)"
            )
        raise UserCodeError(msg) from error
    return module
