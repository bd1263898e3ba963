"""What a folder of files contains, as one digest."""

import hashlib
import shutil
from pathlib import Path

BYTECODE = "__pycache__"
"""Name of the folders in which Python keeps compiled code, and would run it from."""


def tree_digest(folder: Path) -> str:
    """Return the SHA-256 over the sorted paths and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()):
        name = path.relative_to(folder).as_posix()
        bytes_ = f"-> {path.readlink()}".encode() if path.is_symlink() else path.read_bytes()
        digest.update(f"{name}\0{hashlib.sha256(bytes_).hexdigest()}\n".encode())
    return digest.hexdigest()


def count_files(folder: Path) -> int:
    """Return the number of files below a folder."""
    return sum(1 for path in folder.rglob("*") if not path.is_dir())


def drop_bytecode(folder: Path) -> tuple[str, ...]:
    """
    Remove the compiled code below a folder: it is no part of a model, and would be run.

    :return: the files that are gone, paths below the folder, sorted.
    """
    caches = [path for path in folder.rglob(BYTECODE) if path.is_dir()]
    gone = {p.relative_to(folder).as_posix() for c in caches for p in c.rglob("*") if p.is_file()}
    for cache in caches:
        shutil.rmtree(cache, ignore_errors=True)
    return tuple(sorted(gone))
