"""Retries of a step after an error of PostgreSQL or RabbitMQ.

- A transient error, such as a restart or a failover, is retried twice within seconds. If it lasts
  longer the run fails, and the schedule requests its windows again at the next tick.
- An error that the publisher has already retried fails the run: one layer of retries is enough.
- A permanent error, such as a wrong password or a missing table, fails the run at once.

No data is lost: each batch is committed, and a message that is not confirmed stays pending.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import dagster as dg

from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import StoreError, translate_db_errors

# Not used as Dagster's retry policy of a step: that would retry every exception, including bugs and
# the interrupt that terminates a run.
STEP_RETRIES: Final = dg.RetryPolicy(
    max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
"""Two more attempts, after 0 to 4 and 4 to 8 seconds. With the database driver's timeouts for a
server that does not answer this takes about 30 seconds."""

logger = logging.getLogger(__name__)


@contextmanager
def retry_transient_errors(postgres: Postgres, retry_number: int) -> Iterator[None]:
    """Turn errors of the results database and the broker into Dagster's retries and failures.

    Args:
        postgres: the results database.
        retry_number: number of the step's retry; 0 in the first attempt.

    Raises:
        dagster.RetryRequested: the error is transient, and attempts are left.
        dagster.Failure: for any other error, with its message as the description.
    """
    try:
        with translate_db_errors(postgres):
            yield
    except (BrokerError, StoreError) as error:
        waited = isinstance(error, BrokerError) and error.waited
        if error.retryable and not waited and retry_number < STEP_RETRIES.max_retries:
            pause = max(0.0, STEP_RETRIES.calculate_delay(retry_number + 1))
            logger.warning(
                "%s; starting attempt %d of %d in %.1f s",
                error,
                retry_number + 2,
                STEP_RETRIES.max_retries + 1,
                pause,
            )
            raise dg.RetryRequested(STEP_RETRIES.max_retries, pause) from error
        raise dg.Failure(str(error), allow_retries=False) from error
