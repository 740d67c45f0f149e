"""From the ledger to the queue: claim, publish, enter what was confirmed, until nothing is left.

Knows no Dagster: `benchmark_feed` calls it.
"""

import sqlalchemy as sa

from sim_pipeline.assets.progress import Progress
from sim_pipeline.broker.config import BrokerConfig
from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.broker.message import OutgoingMessage, encode
from sim_pipeline.broker.publisher import Publisher
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.ledger import Pending, Span, claim, count_pending

# Claimed at once, and so held in memory and locked against other feeds: a few seconds' worth, of
# windows or, where these have many points, of values.
_CLAIM_WINDOWS = 5_000
_CLAIM_VALUES = 500_000


def publish_pending(engine: sa.Engine, broker: BrokerConfig, span: Span, points: int) -> int:
    """Send every pending window of a span; return how many messages that were.

    Args:
        engine: of the results database.
        broker: where to send to; connected to only if anything is pending.
        span: models and labels.
        points: values per metric and window, to know how many windows are many.

    Raises:
        BrokerError: a message was not confirmed. Those that were are entered as delivered, the
            others stay pending.
    """
    with engine.connect() as connection:
        progress = Progress("Published", "messages", count_pending(connection, span))
    sent = 0
    limit = max(1, min(_CLAIM_WINDOWS, _CLAIM_VALUES // (len(METRICS) * points)))
    with Publisher(broker) as publisher:
        while True:
            with claim(engine, span, limit) as claimed:
                if not claimed.pending:
                    progress.end(sent, sent)
                    return sent
                messages = [_message(pending) for pending in claimed.pending]
                try:
                    confirmed = publisher.publish(messages).confirmed
                except BrokerError as error:
                    claimed.mark_published(error.confirmed)
                    raise
                claimed.mark_published(confirmed)
                sent += len(confirmed)
                progress.report(sent, sent)


def _message(pending: Pending) -> OutgoingMessage:
    return OutgoingMessage(
        pending.message_id, encode(pending.llm_name, pending.timestamp, pending.values)
    )
