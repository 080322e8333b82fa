"""Where Alembic finds the connection and the tables; `schema.migrate` holds the transaction and the lock."""

from alembic import context

from infrastructure.persistence.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=False)
context.run_migrations()
