"""From the ledger to the queue: claim, publish, enter what was confirmed, until nothing is left.

Knows no Dagster: `benchmark_feed` calls it.
"""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.broker.message import OutgoingMessage, encode
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.feed.progress import Progress
from sim_pipeline.feed.publish_counts import PublishCounts
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.ledger import Claim, Pending, Span, claim, count_pending

# Claimed at once, and so held in memory and locked against other feeds: a few seconds' worth, of
# windows or, where these have many points, of values.
_CLAIM_WINDOWS = 5_000
_CLAIM_VALUES = 500_000


def publish_pending(
    engine: sa.Engine, broker: BrokerConfig, span: Span, points: int, sent: PublishCounts
) -> None:
    """Send every pending window of a span.

    Args:
        engine: of the results database.
        broker: where to send to; connected to only if anything is pending.
        span: models and labels.
        points: values per metric and window, to know how many windows are many.
        sent: where to count what was sent, also when this raises.

    Raises:
        BrokerError: a message was not confirmed. Those that were are entered as delivered, the
            others stay pending.
    """
    with engine.connect() as connection:
        progress = Progress("Published", "messages", count_pending(connection, span))
    before = sent.messages.total()
    limit = max(1, min(_CLAIM_WINDOWS, _CLAIM_VALUES // (len(METRICS) * points)))
    with Publisher(broker) as publisher:
        while True:
            with claim(engine, span, limit, sent.marks) as claimed:
                done = sent.messages.total() - before
                if not claimed.pending:
                    progress.end(done, done)
                    return
                progress.report(done, done)
                messages = [_message(pending) for pending in claimed.pending]
                try:
                    confirmed = publisher.publish(messages).confirmed
                except BrokerError as error:
                    _enter(claimed, error.confirmed, sent)
                    raise
                _enter(claimed, confirmed, sent)


def _enter(claimed: Claim, confirmed: Collection[UUID], sent: PublishCounts) -> None:
    claimed.mark_published(confirmed)
    sent.count(pending for pending in claimed.pending if pending.message_id in confirmed)


def _message(pending: Pending) -> OutgoingMessage:
    return OutgoingMessage(
        pending.message_id, encode(pending.llm_name, pending.timestamp, pending.values)
    )
