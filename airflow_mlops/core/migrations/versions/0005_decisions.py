"""Decisions: the shape of an entry is checked, entries may be signed, long ledgers are short."""

from alembic import op

revision = "0005"
down_revision = "0004"

# Entries that are there already are not looked at: who wrote nonsense before is told by doctor.
SHAPE = """
alter table mlops.decisions drop constraint decisions_op_check;
alter table mlops.decisions add constraint decisions_op_check check (op in (
  'request', 'retrain', 'keep', 'wait', 'ask', 'propose', 'refuse', 'reject',
  'promote', 'rollback', 'observe', 'remove', 'forget', 'vote', 'stage', 'adopt',
  'handover', 'set_aside', 'vouch'));
alter table mlops.decisions add constraint decisions_shape check (
  body::jsonb ?& array['model', 'op', 'key', 'by', 'reason', 'version', 'epoch', 'order',
    'evidence', 'ask', 'at', 'seq']
  and body::jsonb - array['model', 'op', 'key', 'by', 'reason', 'version', 'epoch', 'order',
    'evidence', 'ask', 'at', 'seq', 'sum'] = '{}'::jsonb
  and jsonb_typeof(body::jsonb -> 'evidence') = 'object'
  and coalesce(jsonb_typeof(body::jsonb -> 'sum'), 'object') = 'object'
  and jsonb_typeof(body::jsonb -> 'op') = 'string'
  and jsonb_typeof(body::jsonb -> 'key') = 'string'
  and jsonb_typeof(body::jsonb -> 'by') = 'string'
  and jsonb_typeof(body::jsonb -> 'reason') = 'string'
  and jsonb_typeof(body::jsonb -> 'ask') = 'string'
  and jsonb_typeof(body::jsonb -> 'epoch') = 'number'
  and jsonb_typeof(body::jsonb -> 'version') in ('number', 'null')
  and jsonb_typeof(body::jsonb -> 'order') in ('number', 'null')
  and (body::jsonb ->> 'epoch')::bigint >= 0
  and body::jsonb ->> 'at' ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T'
) not valid;
"""

# What reads "who stands where" looks at the newest sum and at what came after it; the versions of a
# model, requests without an answer and the newest decisions have an index each.
COLUMNS = """
alter table mlops.decisions
  add column signature text,
  add column summed boolean generated always as (body::jsonb ? 'sum') stored,
  add column answers bigint generated always as (case
    when body::jsonb ->> 'op' = 'retrain'
      or (body::jsonb ->> 'op' = 'keep' and body::jsonb #>> '{evidence,trigger}' = 'request')
    then (body::jsonb #>> '{evidence,request}')::bigint end) stored;
alter table mlops.decisions drop constraint decisions_model_key_key;
create index decisions_keys on mlops.decisions (model, key);
create index decisions_sums on mlops.decisions (model, seq) where summed;
create index decisions_aside on mlops.decisions (model, seq) where op in ('set_aside', 'vouch');
create index decisions_files on mlops.decisions (model, version, seq) where run_id is not null;
create index decisions_ops on mlops.decisions (model, op, seq);
create index decisions_handovers on mlops.decisions (model,
  (body::jsonb #>> '{evidence,step}'), (body::jsonb #>> '{evidence,about}'), seq)
  where op = 'handover';
create index decisions_answers on mlops.decisions (model, answers) where answers is not null;
grant insert (signature) on mlops.decisions to mlops_writer;
"""

# Several installations may share one MLflow: each knows its own models there by this name.
INSTALLATION = """
create table mlops.installation (one boolean primary key default true check (one),
  id uuid not null default gen_random_uuid());
insert into mlops.installation default values;
alter table mlops.installation owner to mlops_owner;
revoke all on mlops.installation from public;
grant select on mlops.installation to mlops_writer, mlops_reader;
"""


def upgrade() -> None:
    """Check what comes, and find what is there."""
    op.execute(SHAPE)
    op.execute(COLUMNS)
    op.execute(INSTALLATION)


def downgrade() -> None:
    """Refuse: entries of these operations may be on record."""
    msg = "the ledger is append-only; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
