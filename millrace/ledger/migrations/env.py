"""Alembic's entry: migrations run on the connection that `Database` hands over, inside its transaction."""

from alembic import context

from millrace.ledger.database import VERSION_TABLE
from millrace.ledger.tables import METADATA


def _run() -> None:
    connection = context.config.attributes["connection"]
    context.configure(
        connection=connection, target_metadata=METADATA, version_table=VERSION_TABLE, transactional_ddl=False
    )
    context.run_migrations()


# Alembic executes this file with its environment at hand; a plain import does nothing.
if hasattr(context, "config"):
    _run()
