"""Exposures and outcomes of a rollout: who met which version, and what came of it."""

from alembic import op

revision = "0004"
down_revision = "0003"

# Only finite outcomes: one NaN would be the mean of its whole arm.
TABLES = """
create table mlops.exposures (
  model text not null,
  experiment text not null,
  key text not null,
  entity text not null check (entity <> ''),
  arm text not null check (arm in ('champion', 'candidate')),
  version bigint not null,
  exposed_at timestamptz not null,
  latency_ms double precision check (latency_ms >= 0 and latency_ms < 'infinity'),
  failed boolean not null default false,
  recorded_at timestamptz not null default clock_timestamp(),
  primary key (model, experiment, key)
);
create table mlops.outcomes (
  model text not null,
  experiment text not null,
  key text not null,
  metric text not null,
  value double precision not null check (value > '-infinity' and value < 'infinity'),
  recorded_at timestamptz not null default clock_timestamp(),
  primary key (model, experiment, key, metric)
);
alter table mlops.exposures owner to mlops_owner;
alter table mlops.outcomes owner to mlops_owner;
revoke all on mlops.exposures, mlops.outcomes from public;
grant select on mlops.exposures, mlops.outcomes to mlops_writer, mlops_reader;
grant insert, delete on mlops.exposures, mlops.outcomes to mlops_writer;
"""


def upgrade() -> None:
    """Make the two tables."""
    op.execute(TABLES)


def downgrade() -> None:
    """Refuse: a rollout may rest on what is in them."""
    msg = "exposures are the evidence of decisions; drop schema mlops by hand if you mean it"
    raise RuntimeError(msg)
