"""The table `slos`: the current limits of each model's requests, for the view `slo_attainment`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.schema import slos as slos_table

_STORED = sa.text(
    "SELECT llm_name, workload, ttft, itl, e2e FROM slos WHERE llm_name = ANY(:llm_names)"
)

# Makes concurrent runs wait for each other before they lock rows. It does not block readers.
_ONE_AT_A_TIME = sa.text(f"LOCK TABLE {slos_table.name} IN SHARE ROW EXCLUSIVE MODE")

_FORGET = sa.text("DELETE FROM slos WHERE llm_name = ANY(:llm_names)")


@dataclass(frozen=True)
class ModelSlo:
    """The limits of a model's requests; None is no limit.

    Attributes:
        llm_name: the model.
        workload: the class of workload that it serves.
        ttft: highest TTFT [s].
        itl: highest 1 / TPS [s].
        e2e: highest e2e_latency [s].
    """

    llm_name: str
    workload: str
    ttft: float | None
    itl: float | None
    e2e: float | None

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return (self.ttft, self.itl, self.e2e) != (None, None, None)


def save_slos(postgres: Postgres, slos: Sequence[ModelSlo]) -> None:
    """Store the limits of these models in a transaction; remove those of a model without limits.

    The rows of other models stay. If nothing has changed, it is a single query and writes nothing.

    Args:
        postgres: the results database.
        slos: at most one for each model.
    """
    wanted = {one.llm_name: one for one in slos if one.limited}
    llm_names = [one.llm_name for one in slos]
    with postgres.engine.begin() as connection:
        rows = connection.execute(_STORED, {"llm_names": llm_names})
        stored = {row.llm_name: ModelSlo(*row) for row in rows}
        changed = [name for name in llm_names if wanted.get(name) != stored.get(name)]
        if changed:
            connection.execute(_ONE_AT_A_TIME)
            connection.execute(_FORGET, {"llm_names": changed})
            new = [asdict(wanted[name]) for name in changed if name in wanted]
            if new:
                connection.execute(sa.insert(slos_table), new)
