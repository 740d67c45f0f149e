"""What a run has sent so far: counted per partition, over all attempts of its step."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date

from sim_pipeline.store.ledger import Pending


@dataclass
class PublishCounts:
    """Messages that the broker confirmed and the ledger has as delivered, by day and model.

    A message was sent again if the ledger had it as delivered, under the same id, when the run
    opened it again (`resend`). One that an earlier run opened again and could not send is none: the
    ledger does not tell it from one that was never delivered.

    Attributes:
        messages: all of them, by UTC day of the window and model.
        again: those of them that were sent again.
        marks: of `Reopened` entries of the run. Noted before they are committed: where the
            connection is lost at that, nobody knows whether they are.
        reopened: whether that was committed, so that an attempt after it opens nothing again.
    """

    messages: Counter[tuple[date, str]] = field(default_factory=Counter)
    again: Counter[tuple[date, str]] = field(default_factory=Counter)
    marks: list[str] = field(default_factory=list)
    reopened: bool = False

    def count(self, delivered: Iterable[Pending]) -> None:
        """Count windows that were delivered just now."""
        for one in delivered:
            key = one.timestamp.date(), one.llm_name
            self.messages[key] += 1
            if one.reopened:
                self.again[key] += 1
