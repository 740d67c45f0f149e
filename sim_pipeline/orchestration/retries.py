"""What a step does about a fault of PostgreSQL or RabbitMQ: try again shortly, or fail at once.

It tries again what may be better in a few seconds, a restart or a failover, and that few times:
what lasts longer fails the run, and the schedule asks for its windows again at the next tick. So
does what the publisher has tried again by itself: one of the two is enough.
What no retry mends, a wrong password or a missing table, fails at the first attempt; so does an
error of our own making. Nothing is lost by either: slices are committed one by one, and what the
broker did not confirm is pending.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.error_translation import translate_db_errors
from sim_pipeline.store.errors import StoreError

# Not handed to Dagster as a step's retry policy: that would retry every exception, a bug's too, and
# even the interrupt that ends a run which someone terminated.
STEP_RETRIES: Final = dg.RetryPolicy(
    max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""Two more attempts, after 0 to 4 and 4 to 8 seconds: half a minute together with what the
database's driver waits for a server that does not answer."""

logger = logging.getLogger(__name__)


@contextmanager
def retry_transient_errors(postgres: Postgres, retry_number: int) -> Iterator[None]:
    """Run a block of a step that uses the results database, and perhaps the broker.

    Args:
        postgres: the results database.
        retry_number: of the step's attempt; 0 at the first.

    Raises:
        dagster.RetryRequested: a fault that may pass, and attempts are left.
        dagster.Failure: any other fault, described by its message.
    """
    try:
        with translate_db_errors(postgres):
            yield
    except (BrokerError, StoreError) as error:
        waited = isinstance(error, BrokerError) and error.waited
        if error.retryable and not waited and retry_number < STEP_RETRIES.max_retries:
            pause = max(0.0, STEP_RETRIES.calculate_delay(retry_number + 1))
            logger.warning(
                "%s; attempt %d of %d in %.1f s",
                error,
                retry_number + 2,
                STEP_RETRIES.max_retries + 1,
                pause,
            )
            raise dg.RetryRequested(STEP_RETRIES.max_retries, pause) from error
        raise dg.Failure(str(error), allow_retries=False) from error
