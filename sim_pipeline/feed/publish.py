"""Publishes pending windows: claims ledger entries, sends their messages, marks the confirmed ones.

The asset `benchmark_feed` calls it. The broker's side is in `broker/publisher.py`.
"""

from collections.abc import Collection
from uuid import UUID

import sqlalchemy as sa

from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.broker.message import OutgoingMessage, encode
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.feed.progress import Progress
from sim_pipeline.feed.run_stats import PublishCounts
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.ledger import Claim, Pending, Span, claim, count_pending

# A claim is held in memory and locked against other runs, so it is limited to a few seconds of
# publishing: by windows or, if these have many points, by values.
_CLAIM_WINDOWS = 5_000
_CLAIM_VALUES = 500_000


def publish_pending(
    engine: sa.Engine, broker: BrokerConfig, span: Span, points: int, counts: PublishCounts
) -> None:
    """Publish every pending window of a span.

    Args:
        engine: of the results database.
        broker: the broker; a connection is opened only if a window is pending.
        span: the models and windows.
        points: values per metric and window; it limits the size of a claim.
        counts: where to count the messages sent, also when this function raises.

    Raises:
        BrokerError: a message was not confirmed. The confirmed ones are marked as published, the
            others stay pending.
    """
    with engine.connect() as connection:
        progress = Progress("Published", "messages", count_pending(connection, span))
    before = counts.messages.total()
    limit = max(1, min(_CLAIM_WINDOWS, _CLAIM_VALUES // (len(METRICS) * points)))
    with Publisher(broker) as publisher:
        while True:
            with claim(engine, span, limit, counts.reopen_transaction_ids) as claimed:
                done = counts.messages.total() - before
                if not claimed.pending:
                    progress.end(done, done)
                    return
                progress.report(done, done)
                messages = [_message(pending) for pending in claimed.pending]
                try:
                    confirmed = publisher.publish(messages).confirmed
                except BrokerError as error:
                    _mark_published(claimed, error.confirmed, counts)
                    raise
                _mark_published(claimed, confirmed, counts)


def _mark_published(claimed: Claim, confirmed: Collection[UUID], counts: PublishCounts) -> None:
    claimed.mark_published(confirmed)
    counts.count(pending for pending in claimed.pending if pending.message_id in confirmed)


def _message(pending: Pending) -> OutgoingMessage:
    return OutgoingMessage(
        pending.message_id, encode(pending.llm_name, pending.window_start, pending.values)
    )
