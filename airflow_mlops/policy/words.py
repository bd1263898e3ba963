"""What every word of a policy is made of: frozen data that becomes JSON and comes back."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any, ClassVar, Self

_DURATION = re.compile(r"(?P<number>[0-9]+)\s*(?P<unit>[smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def duration(text: str) -> timedelta:
    """
    Read a length of time such as ``"7d"``; units are s, m, h, d and w.

    :raises ValueError: if ``text`` is not a whole number and a unit.

    >>> duration("36h")
    datetime.timedelta(days=1, seconds=43200)
    """
    match = _DURATION.fullmatch(str(text))
    if match is None:
        msg = f"not a duration: {text!r} (a whole number and one of s, m, h, d, w, such as '7d')"
        raise ValueError(msg)
    return timedelta(**{_UNITS[match["unit"]]: int(match["number"])})


def number(name: str, value: object) -> None:
    """
    See that a value is a number; neither a boolean nor NaN is one.

    :param name: whose it is; the error names it.
    :raises ValueError: if it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        msg = f"{name} must be a number, not {value!r}"
        raise ValueError(msg)


def between(name: str, value: float, low: float, high: float) -> None:
    """
    See that a value is a number within its bounds.

    :raises ValueError: if it is not.
    """
    number(name, value)
    if not low <= value <= high:
        msg = f"{name} must lie between {low:g} and {high:g}, not {value!r}"
        raise ValueError(msg)


def function_name(name: str, text: object) -> None:
    """
    See that a function of the user is named as ``module:function``; nothing is imported.

    :param name: whose it is; the error names it.
    :raises ValueError: if it is written otherwise.
    """
    parts = text.split(":") if isinstance(text, str) else []
    if len(parts) != 2 or not all(p.isidentifier() for p in [*parts[0].split("."), parts[1]]):
        msg = f"{name} is {text!r}; it has to be 'module:function'"
        raise ValueError(msg)


class Word:
    """What every word of a policy can do: become plain JSON types and come back."""

    __slots__ = ()
    known: ClassVar[dict[str, type["Word"]]] = {}

    def __init_subclass__(cls) -> None:
        Word.known[cls.__name__] = cls

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the word itself under ``word``."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {"word": type(self).__name__} | values

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """
        Rebuild the word that :meth:`to_dict` wrote.

        :raises ValueError: if the word is not known, or is not a ``cls``.
        """
        found = Word.known.get(str(data.get("word")))
        if found is None or not issubclass(found, cls):
            known = ", ".join(sorted(n for n, k in Word.known.items() if issubclass(k, cls)))
            msg = f"unknown word of a policy: {data.get('word')!r}; known: {known}"
            raise ValueError(msg)
        values = {f.name: data[f.name] for f in fields(found) if f.name in data}  # type: ignore[arg-type]
        for name, value in values.items():
            if isinstance(value, list | tuple):
                parts = (Word.from_dict(v) if isinstance(v, Mapping) else v for v in value)
                values[name] = tuple(parts)
        return found(**values)
