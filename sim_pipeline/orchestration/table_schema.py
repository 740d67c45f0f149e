"""The column schema that Dagster shows for a table."""

import dagster as dg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql


def column_schema(table: sa.Table) -> dg.TableSchema:
    """Return a table's columns: name, PostgreSQL type, description, nullability."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return dg.TableSchema(
        [
            dg.TableColumn(
                column.name,
                column.type.compile(dialect).lower(),
                column.comment,
                dg.TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )
