"""Reads tables of models, workloads and incidents: of the catalogue, of a file, or of a form.

docs/profiles.md describes the format.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, replace
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, TypeAlias, get_type_hints

from sim_pipeline.simulator.arguments import Range, field_ranges
from sim_pipeline.simulator.calibration import calibrated
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import (
    Incident,
    Profile,
    Slo,
    Thinking,
    Workload,
    derived_profile,
)

REQUIRED_FIELDS = frozenset(
    field.name for field in fields(Profile) if field.default is MISSING and field.name != "name"
)
"""The fields that a model needs if it is not built in."""

_UNKNOWN = "not a field of this table; docs/profiles.md lists them"
_TABLES = ("workload", "workloads", "all_models", "models", "incidents")


@dataclass(frozen=True)
class _Kind:
    """The allowed values of a field that is not a number; `Range` is that of a number.

    Attributes:
        words: what is allowed.
        allows: returns whether a value is allowed.
        parse: converts a text to such a value, or raises a ValueError.
    """

    words: str
    allows: Callable[[object], bool]
    parse: Callable[[str], object] = str

    def __str__(self) -> str:
        return self.words


_Allowed: TypeAlias = Range | _Kind | type
# Both formats have types for dates and times; a text is accepted as well. A datetime is a date.
_DATE = _Kind("a date such as 2026-07-10", lambda value: type(value) is date, date.fromisoformat)
_TIME = _Kind(
    "a time with an offset from UTC, or Z, such as 2026-03-02T09:00:00Z",
    lambda value: isinstance(value, datetime) and value.tzinfo is not None,
    datetime.fromisoformat,
)
# What a type allows. A dataclass is a table of its fields.
_KINDS: dict[object, _Allowed] = {
    str: _Kind("a string", lambda value: isinstance(value, str)),
    bool: _Kind("true or false", lambda value: isinstance(value, bool)),
    date: _DATE,
    date | None: _DATE,
    TokenLengths: TokenLengths,
    Thinking | None: Thinking,
    Slo: Slo,
    Slo | None: Slo,
    Workload: Workload,
}


def _allowed(kind: type, *without: str) -> dict[str, _Allowed]:
    """Return what the fields of a dataclass allow, but for those ``without``."""
    hints = get_type_hints(kind).items()
    allowed = {name: _KINDS[hint] for name, hint in hints if hint in _KINDS} | field_ranges(kind)
    return {name: values for name, values in allowed.items() if name not in without}


class TablesReader:
    """Reads tables and collects their problems, so that one error can name them all.

    Attributes:
        problems: a sentence for each problem found.
        workloads: the classes of workload by name; those that `read` finds are added.
    """

    def __init__(
        self,
        source: str,
        known: Mapping[str, Profile] = MappingProxyType({}),
        workloads: Mapping[str, Workload] = MappingProxyType({}),
    ) -> None:
        """Keep the arguments.

        Args:
            source: `Profile.source` of the models in the tables.
            known: profiles that the tables can change, by name.
            workloads: classes of workload, by name.
        """
        self.problems: list[str] = []
        self.workloads = dict(workloads)
        self._source = source
        self._known = known

    def read(self, content: object, models: Sequence[str]) -> dict[str, Profile]:
        """Return the profiles of ``models``, without those that have problems."""
        file = self._table(content, "the file") or {}
        self.problems += [f"{name} is {_UNKNOWN}" for name in file if name not in _TABLES]
        for name, table in (self._table(file.get("workloads", {}), "workloads") or {}).items():
            usual = self.workloads.get(name, Workload())
            workload = self._record(Workload, usual, table, f"workloads.{name}") or usual
            self.workloads[name] = replace(workload, name=name)
        of_all = _allowed(Profile, "name", "workload", *REQUIRED_FIELDS)
        common = self._fields(file.get("all_models", {}), "all_models", of_all) or {}
        tables = self._table(file.get("models", {}), "models") or {}
        known = dict.fromkeys([*models, *tables])
        incidents = self._incidents(file.get("incidents", []), {*known, *self._known})
        profiles = {
            name: self._profile(
                name,
                tables,
                file.get("workload", {}),
                common | {"incidents": incidents.get(name, ())},
            )
            for name in known
        }
        return {name: profile for name in models if (profile := profiles[name])}

    def _table(self, content: object, where: str) -> dict[str, Any] | None:
        """Return the content if it is a table; otherwise note a problem and return None."""
        if not isinstance(content, dict):
            self.problems.append(f"{where} is {content!r}: must be a table of names and values")
            return None
        self.problems += [
            f"{where}.{name}: the name must be a string; put it in quotes"
            for name in content
            if not isinstance(name, str)
        ]
        return {name: value for name, value in content.items() if isinstance(name, str)}

    def _fields(
        self,
        content: object,
        where: str,
        allowed: Mapping[str, _Allowed],
        *,
        required: Collection[str] = (),
        usual: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any] | None:
        """Return the values of a table; None if there is a problem.

        A table within the table changes a value of ``usual``. One of limits replaces all of them,
        so that it can remove a limit.
        """
        count = len(self.problems)
        table = self._table(content, where)
        if table is None:
            return None
        self.problems += [f"{where}.{name} is missing" for name in required if name not in table]
        for name, value in table.items():
            kind = allowed.get(name)
            if kind is None:
                self.problems.append(f"{where}.{name} is {_UNKNOWN}")
                continue
            if isinstance(kind, type):
                before = None if kind is Slo else usual.get(name)
                table[name] = self._record(kind, before, value, f"{where}.{name}")
                continue
            if isinstance(kind, _Kind) and isinstance(value, str):
                with suppress(ValueError):
                    table[name] = kind.parse(value)
            if not kind.allows(table[name]):
                shown = value if isinstance(value, date) else repr(value)
                self.problems.append(f"{where}.{name} is {shown}: must be {kind}")
        return table if len(self.problems) == count else None

    def _record(self, kind: Any, usual: Any, content: object, where: str) -> Any:
        """Return ``usual``, changed by a table; None if there is a problem.

        If ``usual`` is None, the table must have all fields without default. In place of the table
        of a workload, the name of a class is accepted.
        """
        if kind is Workload and isinstance(content, str):
            if content not in self.workloads:
                classes = ", ".join(sorted(self.workloads))
                self.problems.append(f"{where} is {content!r}: must be a table or one of {classes}")
            return self.workloads.get(content)
        required = [one.name for one in fields(kind) if usual is None and one.default is MISSING]
        known = {} if usual is None else vars(usual)
        allowed = _allowed(kind, "name")
        given = self._fields(content, where, allowed, required=required, usual=known)
        if given is None:
            return None
        try:
            return kind(**given) if usual is None else replace(usual, **given)
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return None

    def _incidents(
        self, contents: object, known: Collection[str]
    ) -> dict[str, tuple[Incident, ...]]:
        if not isinstance(contents, list):
            self.problems.append(f"incidents is {contents!r}: must be a list of tables")
            return {}
        allowed: dict[str, _Allowed] = {
            "model": _Kind(f"one of {', '.join(sorted(known))}", list(known).__contains__),
            "start": _TIME,
            "end": _TIME,
            "capacity_factor": field_ranges(Incident)["capacity_factor"],
        }
        incidents: dict[str, tuple[Incident, ...]] = {}
        for number, content in enumerate(contents):
            where = f"incidents.{number}"
            table = self._fields(content, where, allowed, required=allowed)
            if table is None:
                continue
            model, start, end = table["model"], table["start"], table["end"]
            if end <= start:
                self.problems.append(f"{where}.end is {end}: must be after start, {start}")
                continue
            incident = Incident(start.timestamp(), end.timestamp(), table["capacity_factor"])
            incidents[model] = (*incidents.get(model, ()), incident)
        return incidents

    def _profile(
        self, name: str, tables: Mapping[str, object], workload: object, common: dict[str, Any]
    ) -> Profile | None:
        """Return a model's profile, ``common`` changed by its table; None if there is a problem."""
        where = f"models.{name}"
        base = self._known.get(name) or (None if name in tables else derived_profile(name))
        own = base.workload if base else Workload()
        # Limits change no number, so those of a class apply to all its models, also built-in ones.
        own = replace(own, slo=self.workloads.get(own.name, own).slo)
        common["workload"] = self._record(Workload, own, workload, "workload") or own
        given = common
        if name in tables:
            usual = (vars(base) if base else {}) | common
            table = self._fields(
                tables[name],
                where,
                _allowed(Profile, "name"),
                required=() if base else sorted(REQUIRED_FIELDS),
                usual=usual,
            )
            if table is None:
                return None
            given = {"source": self._source, **common, **table}
        try:
            profile = Profile(name, **given) if base is None else replace(base, **given)
            calibrated(profile)
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
            return None
        return profile
