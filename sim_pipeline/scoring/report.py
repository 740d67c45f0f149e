"""The report of a score: tables for a terminal, and a value for JSON."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from sim_pipeline.scoring.score import Counts, Detections, Group, Rule, Score, Span
from sim_pipeline.timestamps import format_timestamp

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Report:
    """A score and what it is of.

    Attributes:
        score: the figures.
        rule: the rule they follow from.
        period: the scored period.
    """

    score: Score
    rule: Rule
    period: Span

    def as_json(self) -> dict[str, object]:
        """Return everything as a value for JSON: shares are from 0 to 1, delays are in hours."""
        score, rule = self.score, self.rule
        since, until = map(format_timestamp, self.period)
        return {
            "since": since,
            "until": until,
            "rule": {
                "kinds": list(rule.kinds),
                "all_shifts": rule.all_shifts,
                "grace_hours": rule.grace / _HOUR,
                "horizon_hours": rule.horizon / _HOUR,
                "merge_hours": rule.merge / _HOUR,
            },
            "left_out": score.left_out,
            "true_share_of_time": score.true_share,
            "neither_share_of_time": score.neither_share,
            "overall": _group_object(score.overall),
            "kinds": [
                {"kind": kind, "size": size or None, **_detections_object(one)}
                for (kind, size), one in score.kinds.items()
            ],
            "sizes": [
                {"size": size, **_detections_object(one)} for size, one in score.sizes.items()
            ],
            "metrics": [
                {"metric": metric or None, **_group_object(one)}
                for metric, one in score.metrics.items()
            ],
            "models": [
                {"llm_name": name, **_group_object(one)} for name, one in score.models.items()
            ],
        }

    def tables(self) -> Iterator[RenderableType]:
        """Yield the text and the tables for a terminal."""
        score, rule = self.score, self.rule
        since, until = map(format_timestamp, self.period)
        overall = score.overall
        slower_only = "level_shift" in rule.kinds and not rule.all_shifts
        shifts = "; of level shifts, the slower ones" if slower_only else ""
        covered, grace = (
            f"{overall.covered / _DAY:,.1f} days of windows",
            f"{rule.grace / _HOUR:g} h",
        )
        remarks = [
            f"{since} to {until}: {covered}, {len(score.models)} models",
            f"To find: {', '.join(rule.kinds)}{shifts}",
            f"True: an alarm during these or {grace} after; {score.true_share:.1%} of the time",
            f"Neither: one of other events only; {score.neither_share:.1%} of the time",
        ]
        if score.left_out:
            reason = "of other models or outside the scored windows"
            remarks.append(f"Left out: {score.left_out:,} alarms {reason}")
        yield Text("\n".join(remarks))
        counts = {"alarms": overall.alarms, "episodes": overall.episodes}
        yield _table(
            ("", "number", "true", "false", "neither", "precision", "false per model\nand 30 days"),
            [
                (name, *_count_cells(one), _rate(overall.per_month(one.false)))
                for name, one in counts.items()
            ],
        )
        found = [("all", "", overall.detections)]
        found += [("", size, one) for size, one in score.sizes.items()]
        found += [("" if size else kind, size, one) for (kind, size), one in score.kinds.items()]
        yield _table(
            ("kind", "size", "events", "found", "recall", "delay\n[h]", "p90\n[h]"),
            [(kind, size, *_detection_cells(one)) for kind, size, one in found],
        )
        heads = ("episodes", "precision", "false per\n30 days", "events", "recall", "delay\n[h]")
        for head, groups in (("metric", score.metrics), ("model", score.models)):
            rows = [(name or "any", *_group_cells(one)) for name, one in groups.items()]
            yield _table((head, *heads), rows)


def _group_object(group: Group) -> dict[str, object]:
    counts = {"alarms": group.alarms, "episodes": group.episodes}
    return {
        **{
            name: {
                "number": one.total,
                "true": one.true,
                "false": one.false,
                "neither": one.neither,
                "precision": one.precision,
                "false_per_model_and_30_days": group.per_month(one.false),
            }
            for name, one in counts.items()
        },
        **_detections_object(group.detections),
        "covered_days": group.covered / _DAY,
    }


def _detections_object(detections: Detections) -> dict[str, object]:
    return {
        "events": detections.events,
        "found": len(detections.delays),
        "recall": detections.recall,
        "delay_p50_hours": detections.delay(50),
        "delay_p90_hours": detections.delay(90),
    }


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        # If the lines are too long, names are folded: a number without its end would be wrong.
        if head in ("", "kind", "size", "metric", "model"):
            table.add_column(Text(head), overflow="fold")
        else:
            table.add_column(Text(head), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as text, because names and [h] may be markup
    return table


def _group_cells(group: Group) -> tuple[str, ...]:
    episodes = group.episodes
    return (
        f"{episodes.total:,}",
        _share(episodes.precision),
        _rate(group.per_month(episodes.false)),
        f"{group.detections.events:,}",
        _share(group.detections.recall),
        _rate(group.detections.delay(50)),
    )


def _count_cells(counts: Counts) -> tuple[str, ...]:
    numbers = (counts.total, counts.true, counts.false, counts.neither)
    return *(f"{number:,}" for number in numbers), _share(counts.precision)


def _detection_cells(detections: Detections) -> tuple[str, ...]:
    return (
        f"{detections.events:,}",
        f"{len(detections.delays):,}",
        _share(detections.recall),
        _rate(detections.delay(50)),
        _rate(detections.delay(90)),
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
