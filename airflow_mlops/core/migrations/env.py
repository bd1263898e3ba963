"""How alembic reaches the database: through the connection string it was handed."""

import psycopg
from alembic import context
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

engine = create_engine(
    "postgresql+psycopg://",
    creator=lambda: psycopg.connect(context.config.attributes["dsn"], connect_timeout=5),
    poolclass=NullPool,
)
with engine.connect() as connection:
    context.configure(
        connection=connection, version_table="schema_version", version_table_schema="mlops"
    )
    with context.begin_transaction():
        context.run_migrations()
