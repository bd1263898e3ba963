"""
Which persons are being forgotten everywhere: a note of each, until all of it is done.

It holds the keys, and goes in the end. A call that was killed finds its note, and goes on under its
id; so there is one record of it, and it says what the first call found.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_mlops.core.data.commits import SIDECARS
from airflow_mlops.core.data.datasets import DatasetStore

FOLDER = f"{SIDECARS}/erasures"
"""Folder of the notes, below the dataset that was asked about."""


@dataclass(frozen=True, slots=True)
class Note:
    """
    One person who is being forgotten.

    :param id: names this erasure; nothing can be guessed from it.
    :param path: where the note is, below the dataset.
    :param found: what there was to forget when it began; plain JSON types.
    """

    id: str
    path: str
    found: Mapping[str, Any]


def begin(
    store: DatasetStore, name: str, keys: Iterable[str], ident: str, found: Mapping[str, Any]
) -> Note:
    """
    Return the note of an earlier call of the same keys, or write one.

    :param keys: values of the key column, as text.
    :param ident: id of a new one.
    :param found: what there is to forget.
    """
    asked, table = sorted(set(keys)), store.log.get(name)
    for path, known in store.log.notes(table, FOLDER):
        if known is not None and known["keys"] == asked:
            return Note(known["id"], path, known["found"])
    path = f"{FOLDER}/{ident.replace(':', '-')}.json"
    text = json.dumps({"id": ident, "keys": asked, "found": found})
    store.log.write_file(table, path, text.encode())
    return Note(ident, path, found)


def end(store: DatasetStore, name: str, note: Note) -> None:
    """Remove a note: all of it is done."""
    store.log.remove_file(store.log.get(name), note.path)
