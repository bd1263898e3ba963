"""What a commit of a dataset says about itself: its version, its windows, where it came from."""

import hashlib
import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from airflow_mlops.core.data.digest import ContentDigest

SIDECARS = "_mlops"
"""Folder of the sidecars inside a table; Delta leaves names with an underscore alone."""


@dataclass(frozen=True, slots=True)
class WindowStats:
    """
    One window of a dataset.

    :param index: its number, counted from the first midnight of the dataset.
    :param start: first moment, ISO 8601 (inclusive).
    :param end: end, ISO 8601 (exclusive).
    :param digest: content digest of its rows.
    :param owner: sidecar that holds its profile.
    :param contract: contract version of its rows: which of the dataset's columns they have.
    """

    index: int
    start: str
    end: str
    rows: int
    digest: str
    owner: str = ""
    contract: int = 1

    @property
    def span(self) -> tuple[datetime, datetime]:
        """First moment, and end."""
        return datetime.fromisoformat(self.start), datetime.fromisoformat(self.end)


@dataclass(frozen=True, slots=True)
class Commit:
    """
    One version and how it came to be.

    :param rows: rows of the whole version.
    :param added: rows more than the version before; 0 if this call found nothing new.
    :param since: first time among the rows of the windows it wrote, ISO 8601.
    :param until: newest time among them.
    :param watermark: newest time of the whole version.
    :param digest: content digest of the whole version.
    :param windows: the windows it wrote.
    :param origin: where the rows came from.
    :param query: what was read there, as SQL or in words.
    :param query_hash: hash of ``query``: two commits of one query can be told from two of two.
    :param corrected: rows that had another time before, and went from there.
    """

    ref: str
    rows: int
    added: int
    since: str
    until: str
    watermark: str
    digest: str
    windows: tuple[WindowStats, ...]
    author: str
    origin: str
    run: str
    created_at: str
    query: str = ""
    query_hash: str = ""
    corrected: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return self.facts() | {"windows": [asdict(w) for w in self.windows]}

    def facts(self) -> dict[str, Any]:
        """Return all but the windows it wrote, of which there may be thousands."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "windows"}

    def summary(self) -> dict[str, Any]:
        """Return references and totals, of the same size however many windows it wrote."""
        return self.facts() | {"wrote": len(self.windows)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the commit that :meth:`to_dict` wrote."""
        return cls(**{**data, "windows": tuple(WindowStats(**w) for w in data["windows"])})


@dataclass(frozen=True, slots=True)
class Full:
    """
    A sidecar that names all its windows; others say only in what they differ from it.

    :param path: where it is, below the table.
    """

    path: str
    windows: tuple[WindowStats, ...]


@dataclass(frozen=True, slots=True)
class Sidecar:
    """
    What a commit says about its version, beside the rows.

    :param origin_time: first midnight of the dataset, ISO 8601: windows are counted from it.
    :param window_seconds: length of a window.
    :param time: column by which rows arrive.
    :param key: column that names a row.
    :param sequence: number of the commit; two commits of one number conflict.
    :param windows: every window of the version.
    :param adopted: column that came later -> contract version since which it is there.
    :param centres: column -> around which value its profiles count; all of them have to add up.
    :param forgotten: a mark for each time that rows of this version were forgotten on request.
    :param base: the one that is written in full, if this one is not.
    :param path: where it was read from, below the table.
    """

    commit: Commit
    origin_time: str
    window_seconds: float
    time: str
    key: str
    sequence: int
    windows: tuple[WindowStats, ...]
    adopted: Mapping[str, int] = field(default_factory=dict)
    centres: Mapping[str, Any] = field(default_factory=dict)
    forgotten: tuple[str, ...] = ()
    base: Full | None = field(default=None, repr=False, compare=False)
    path: str = field(default="", repr=False, compare=False)

    @property
    def contract(self) -> int:
        """Version of the dataset's contract; it grows with every column that is adopted."""
        return max(self.adopted.values(), default=1)

    @property
    def window(self) -> timedelta:
        """Length of a window."""
        return timedelta(seconds=self.window_seconds)

    def reread_from(self, lateness: timedelta) -> datetime:
        """
        Return the start of the window that holds the newest time minus ``lateness``.

        A newest time that is ahead of now, as earlier releases let it in, counts as now.
        """
        origin = datetime.fromisoformat(self.origin_time)
        newest = min(datetime.fromisoformat(self.commit.watermark), datetime.now(UTC))
        late = newest - lateness
        return origin + (late - origin) // self.window * self.window

    def base_of(self, windows: Sequence[WindowStats]) -> Full | None:
        """
        Return what the sidecar of the next version refers to; nothing if it is written in full.

        :param windows: those of the next version.
        """
        base = self.base or Full(self.path, self.windows)
        most = max(_LEAST_CHANGES, math.isqrt(2 * len(windows)))  # fewest bytes in the long run
        return base if base.path and len(_changes(base, windows)) <= most else None

    def to_json(self) -> str:
        """Write it as JSON text: all windows, or those in which it differs from its base."""
        parts = ("commit", "windows", "base", "path")
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in parts}
        changed: Sequence[WindowStats] = self.windows
        if self.base is not None:
            kept = {w.index for w in self.windows}
            gone = [w.index for w in self.base.windows if w.index not in kept]
            data |= {"base": self.base.path, "gone": gone}
            changed = _changes(self.base, self.windows)
        owners = {owner: n for n, owner in enumerate(dict.fromkeys(w.owner for w in changed))}
        commit = self.commit.facts() | {"windows": [w.index for w in self.commit.windows]}
        rows = [[w.index, w.rows, w.digest, owners[w.owner], w.contract] for w in changed]
        return json.dumps(data | {"commit": commit, "owners": list(owners), "windows": rows})

    @classmethod
    def from_json(cls, text: bytes, path: str = "", full: Full | None = None) -> Self:
        """
        Read what :meth:`to_json` wrote.

        :param full: what :func:`base_path` names, if it names any.
        """
        data = json.loads(text)
        data.pop("base", None)
        gone = {*data.pop("gone", ())}
        changed = _read_windows(data)
        kept = {w.index: w for w in full.windows if w.index not in gone} if full else {}
        found = kept | {w.index: w for w in changed}
        data.pop("owners", None)
        parts = {
            "commit": _read_commit(data["commit"], changed),
            "windows": tuple(found[index] for index in sorted(found)),
            "forgotten": tuple(data.get("forgotten", ())),
        }
        return cls(**{**data, **parts}, base=full, path=path)


_LEAST_CHANGES = 16


def base_path(text: bytes) -> str:
    """Return the path of the sidecar that another one refers to; empty if it is full itself."""
    return str(json.loads(text).get("base", ""))


def commit_of(text: bytes) -> Commit:
    """Read only the commit of a sidecar; it needs no other file."""
    data = json.loads(text)
    return _read_commit(data["commit"], _read_windows(data))


def _changes(base: Full, windows: Sequence[WindowStats]) -> list[WindowStats]:
    held = {w.index: w for w in base.windows}
    return [w for w in windows if held.get(w.index) != w]


def _read_windows(data: Mapping[str, Any]) -> list[WindowStats]:
    """Read the windows that a sidecar names; earlier releases wrote each as a mapping."""
    if "owners" not in data:
        return [WindowStats(**w) for w in data["windows"]]
    origin = datetime.fromisoformat(data["origin_time"])
    window = timedelta(seconds=data["window_seconds"])
    return [
        WindowStats(
            index,
            (origin + index * window).isoformat(),
            (origin + (index + 1) * window).isoformat(),
            rows,
            digest,
            data["owners"][owner],
            contract,
        )
        for index, rows, digest, owner, contract in data["windows"]
    ]


def _read_commit(data: Mapping[str, Any], windows: Sequence[WindowStats]) -> Commit:
    if all(isinstance(w, dict) for w in data["windows"]):
        return Commit.from_dict(data)
    known = {w.index: w for w in windows}
    return Commit(**{**data, "windows": tuple(known[index] for index in data["windows"])})


def total_digest(windows: Sequence[WindowStats]) -> ContentDigest:
    """Add up the digests of windows."""
    return sum((ContentDigest.parse(w.digest) for w in windows), ContentDigest())


def sidecar_name(app_key: str) -> str:
    """Return a fresh path for the sidecar of one attempt at a change."""
    attempt = secrets.token_hex(4)
    return f"{SIDECARS}/{hashlib.sha256(app_key.encode()).hexdigest()[:24]}-{attempt}"
