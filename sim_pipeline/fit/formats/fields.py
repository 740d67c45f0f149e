"""Validated access to the fields of a JSON object, with errors that name the field."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sim_pipeline.fit.measurement import Distribution, MeasurementError

SECONDS_PER: Final = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0,
    "sec": 1.0, "secs": 1.0, "second": 1.0, "seconds": 1.0,
    "millisecond": 1e-3, "milliseconds": 1e-3,
}  # fmt: skip
"""Units of time as the tools write them."""

# Values are repeated in errors up to this length.
_MAX_SHOWN = 60

_LARGEST = 1e30


def shown(value: object) -> str:
    """Return ``value`` for an error message: on one line and not long."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def finite(value: object) -> float | None:
    """Return ``value`` as a float, or None if it is not a finite number of usual magnitude."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > _LARGEST:
        return None
    number = float(value)
    # A number outside of these limits is an error, and its products could overflow.
    return number if number == 0 or 1 / _LARGEST <= abs(number) <= _LARGEST else None


def numbers(where: str, values: Sequence[object]) -> list[float]:
    """Return ``values``, which must be numbers >= 0.

    Raises:
        MeasurementError: a value is anything else. The message names its index in ``where``.
    """
    result = []
    for index, value in enumerate(values):
        number = finite(value)
        if number is None or number < 0:
            raise MeasurementError(f"{where}[{index}] is {shown(value)}: must be a number >= 0")
        result.append(number)
    return result


class Fields:
    """A JSON object of a file. A field that is null counts as absent.

    Args:
        where: the file, and the path of the object in it, for error messages.
        content: the parsed JSON value.
        nested: whether ``where`` ends with a path, to which fields are added with a dot.

    Raises:
        MeasurementError: ``content`` is not an object.
    """

    def __init__(self, where: str, content: object, *, nested: bool = False) -> None:
        if not isinstance(content, dict):
            raise MeasurementError(f"{where} is {shown(content)}: must be an object")
        self.where = where
        self._separator = "." if nested else ": "
        self.content: Mapping[str, object] = content

    def path(self, name: str) -> str:
        """Return how an error names the field ``name``."""
        return f"{self.where}{self._separator}{name}"

    def has(self, *names: str) -> bool:
        """Return whether all fields are present."""
        return all(self.content.get(name) is not None for name in names)

    def number(self, name: str, *, zero: bool = False) -> float | None:
        """Return a number > 0, or >= 0 if ``zero``; None if the field is absent.

        Raises:
            MeasurementError: the field is anything else.
        """
        value = self.content.get(name)
        if value is None:
            return None
        number = finite(value)
        if number is None or number < 0 or (number == 0 and not zero):
            raise MeasurementError(
                f"{self.path(name)} is {shown(value)}: must be a number {'>=' if zero else '>'} 0"
            )
        return number

    def count(self, name: str) -> int | None:
        """Return a whole number >= 0; None if the field is absent.

        Raises:
            MeasurementError: the field is anything else.
        """
        number = self.number(name, zero=True)
        if number is not None and number != int(number):
            raise MeasurementError(
                f"{self.path(name)} is {shown(self.content[name])}: must be a whole number >= 0"
            )
        return None if number is None else int(number)

    def text(self, name: str) -> str | None:
        """Return a printable string of at most 60 characters; None if the field is none."""
        value = self.content.get(name)
        return value[:_MAX_SHOWN] if isinstance(value, str) and value.isprintable() else None

    def child(self, *names: str) -> "Fields | None":
        """Return the object at the path ``names``; None if a part of the path is absent.

        Raises:
            MeasurementError: a part of the path is not an object.
        """
        fields = self
        for name in names:
            if not fields.has(name):
                return None
            fields = Fields(fields.path(name), fields.content[name], nested=True)
        return fields

    def items(self, name: str) -> list[object] | None:
        """Return the list in the field; None if it is absent.

        Raises:
            MeasurementError: the field is not a list.
        """
        value = self.content.get(name)
        if value is not None and not isinstance(value, list):
            raise MeasurementError(f"{self.path(name)} is {shown(value)}: must be a list")
        return value

    def numbers(self, name: str) -> list[float] | None:
        """Return the list of numbers >= 0 in the field; None if it is absent.

        Raises:
            MeasurementError: the field is not a list, or a value is anything else.
        """
        values = self.items(name)
        return None if values is None else numbers(self.path(name), values)

    def objects(self, name: str) -> Iterator["Fields"]:
        """Yield the objects in the list ``name``, none if it is absent.

        Raises:
            MeasurementError: the field is not a list of objects.
        """
        for index, value in enumerate(self.items(name) or ()):
            yield Fields(f"{self.path(name)}[{index}]", value, nested=True)

    def distribution(
        self,
        *,
        prefix: str = "",
        suffix: str = "",
        mean: str = "mean",
        unit_s: float = 1.0,
        count: int | None = None,
        zero: bool = False,
    ) -> Distribution | None:
        """Return the distribution from the fields ``p50``, ``p99.9``, ``median`` and so on.

        Args:
            prefix: what stands before ``p50`` in the names.
            suffix: what stands after ``p50`` in the names.
            mean: the field of the mean.
            unit_s: the factor of all values, such as 0.001 for milliseconds.
            count: number of requests behind the values.
            zero: whether values may be 0.

        Returns:
            None if no field has a quantile or the mean, or all are 0.

        Raises:
            MeasurementError: a value is not a number > 0, or a quantile is less than one of a lower
                level.
        """
        fields = {}
        for name in self.content:
            if name.startswith(prefix) and name.endswith(suffix):
                level = level_of(name[len(prefix) : len(name) - len(suffix)])
                if level is not None:
                    fields[level] = name
        quantiles: dict[float, float] = {}
        last = 0.0
        for level, name in sorted(fields.items()):
            value = self.number(name, zero=zero)
            if value is None:
                continue
            if value < last:
                raise MeasurementError(
                    f"{self.path(name)} is {value:g}: must not be less than {last:g}, "
                    "the quantile below it"
                )
            quantiles[level] = value * unit_s
            last = value
        average = self.number(mean, zero=zero)
        if not last and not average:
            return None
        return Distribution(quantiles, None if average is None else average * unit_s, count)


def level_of(name: str) -> float | None:
    """Return the level of a quantile in (0, 1), or None if ``name`` does not name one.

    ``p5`` and ``p05`` are 0.05, ``p99.9`` and GuideLLM's ``p999`` are 0.999, ``p001`` is 0.001.
    """
    if name == "median":
        return 0.5
    match = re.fullmatch(r"p(?:(00[1-9]|99[1-9])|([0-9]{1,2}(?:\.[0-9]{1,6})?))", name)
    if match is None:
        return None
    per_mille, percent = match.groups()
    level = round(float(per_mille) / 1000 if per_mille else float(percent) / 100, 9)
    return level if level > 0 else None
