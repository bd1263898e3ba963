"""What a commit of a dataset says about itself: its version, its windows, where it came from."""

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
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

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self) | {"windows": [asdict(w) for w in self.windows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the commit that :meth:`to_dict` wrote."""
        return cls(**{**data, "windows": tuple(WindowStats(**w) for w in data["windows"])})


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

    @property
    def contract(self) -> int:
        """Version of the dataset's contract; it grows with every column that is adopted."""
        return max(self.adopted.values(), default=1)

    @property
    def window(self) -> timedelta:
        """Length of a window."""
        return timedelta(seconds=self.window_seconds)

    def reread_from(self, lateness: timedelta) -> datetime:
        """Return the start of the window that holds the newest time minus ``lateness``."""
        origin = datetime.fromisoformat(self.origin_time)
        late = datetime.fromisoformat(self.commit.watermark) - lateness
        first = self.windows[0].index  # rows may be older than where windows are counted from
        return origin + max(first, (late - origin) // self.window) * self.window

    def to_json(self) -> str:
        """Write it as JSON text."""
        windows = [asdict(w) for w in self.windows]
        return json.dumps(asdict(self) | {"commit": self.commit.to_dict(), "windows": windows})

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read what :meth:`to_json` wrote."""
        data = json.loads(text)
        commit = Commit.from_dict(data["commit"])
        windows = tuple(WindowStats(**w) for w in data["windows"])
        forgotten = tuple(data.get("forgotten", ()))
        return cls(**{**data, "commit": commit, "windows": windows, "forgotten": forgotten})


def total_digest(windows: Sequence[WindowStats]) -> ContentDigest:
    """Add up the digests of windows."""
    total = ContentDigest()
    for window in windows:
        total = total + ContentDigest.parse(window.digest)
    return total


def sidecar_name(app_key: str) -> str:
    """Return a fresh path for the sidecar of one attempt at a change."""
    attempt = secrets.token_hex(4)
    return f"{SIDECARS}/{hashlib.sha256(app_key.encode()).hexdigest()[:24]}-{attempt}"
