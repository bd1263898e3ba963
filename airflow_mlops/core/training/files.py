"""What a folder of files contains, as one digest."""

import hashlib
from pathlib import Path


def tree_digest(folder: Path) -> str:
    """Return the SHA-256 over the sorted paths and bytes of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if "__pycache__" in name:
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
