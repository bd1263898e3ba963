"""Rollouts: votes, stages and adopted aliases are on record; an answer may have classes."""

from alembic import op

revision = "0003"
down_revision = "0002"

OPERATIONS = """
alter table mlops.decisions drop constraint decisions_op_check;
alter table mlops.decisions add constraint decisions_op_check check (op in (
  'request', 'retrain', 'keep', 'wait', 'ask', 'propose', 'refuse', 'reject',
  'promote', 'rollback', 'observe', 'remove', 'forget', 'vote', 'stage', 'adopt'));
alter table mlops.decisions
  add column claim bigint generated always as ((body::jsonb ->> 'order')::bigint) stored,
  add column run_id text generated always as (body::jsonb #>> '{evidence,run_id}') stored,
  add column digest text generated always as (body::jsonb #>> '{evidence,digest}') stored;
create index decisions_moves on mlops.decisions (model, seq) where op in (
  'propose', 'refuse', 'reject', 'promote', 'rollback', 'adopt', 'stage', 'vote');
alter table mlops.predictions
  add column scores double precision[],
  add column shadow boolean not null default false;
create view mlops.served as
  select distinct on (model, key) * from mlops.predictions where not shadow
  order by model, key, scored_at, version;
alter view mlops.served owner to mlops_owner;
grant select on mlops.served to mlops_writer, mlops_reader;
"""


def upgrade() -> None:
    """Allow the three operations; a prediction may be one of several, and need not count."""
    op.execute(OPERATIONS)


def downgrade() -> None:
    """Refuse: entries of these operations may be on record."""
    msg = "the ledger is append-only; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
