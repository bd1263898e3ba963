"""Ledger of decisions, observations, predictions, quarantine, and the three roles."""

from alembic import op

revision = "0001"
down_revision = None

ROLES = """
do $$ begin
  if not exists (select from pg_roles where rolname = 'mlops_owner') then
    create role mlops_owner nologin; end if;
  if not exists (select from pg_roles where rolname = 'mlops_writer') then
    create role mlops_writer nologin; end if;
  if not exists (select from pg_roles where rolname = 'mlops_reader') then
    create role mlops_reader nologin; end if;
exception when unique_violation or duplicate_object then null;  -- a sibling database made them
end $$;
"""

# An entry names its predecessor's hash (no gap, no fork), and its own hash is a check that
# sha256sum can repeat. body is the only truth; the other columns are generated from it.
DECISIONS = r"""
create table mlops.decisions (
  model text not null check (octet_length(model) between 1 and 256),
  seq bigint not null check (seq >= 1),
  prev_seq bigint generated always as (nullif(seq - 1, 0)) stored,
  prev_hash text not null,
  hash text not null,
  body text not null check (octet_length(body) <= 65536),
  op text generated always as (body::jsonb ->> 'op') stored not null check (op in (
    'request', 'retrain', 'keep', 'wait', 'ask', 'propose', 'refuse', 'reject',
    'promote', 'rollback', 'observe')),
  key text generated always as (body::jsonb ->> 'key') stored not null,
  version bigint generated always as ((body::jsonb ->> 'version')::bigint) stored,
  recorded_at timestamptz not null default clock_timestamp(),
  recorded_by text not null default session_user,
  primary key (model, seq),
  unique (model, key),
  unique (model, seq, hash),
  foreign key (model, prev_seq, prev_hash) references mlops.decisions (model, seq, hash),
  check (seq > 1 or prev_hash = repeat('0', 64)),
  check (hash = encode(sha256(convert_to(prev_hash || E'\n' || body, 'UTF8')), 'hex')),
  check ((body::jsonb ->> 'model') = model and (body::jsonb ->> 'seq')::bigint = seq)
);
create function mlops.append_only() returns trigger language plpgsql as $$ begin
  raise exception 'mlops.decisions is append-only: % refused', tg_op
    using errcode = 'insufficient_privilege';
end $$;
create trigger no_rewrite before update or delete on mlops.decisions
  for each row execute function mlops.append_only();
create trigger no_truncate before truncate on mlops.decisions
  for each statement execute function mlops.append_only();
alter table mlops.decisions enable always trigger no_rewrite;
alter table mlops.decisions enable always trigger no_truncate;
"""

OBSERVATIONS = """
create table mlops.observations (
  model text not null,
  monitor text not null,
  subject text not null,
  body jsonb not null,
  recorded_at timestamptz not null default clock_timestamp(),
  primary key (model, monitor, subject)
);
create index on mlops.observations (model, recorded_at desc);
create table mlops.predictions (
  model text not null,
  version bigint not null,
  key text not null,
  observed_at timestamptz not null,
  prediction double precision not null,
  dataset text not null,
  run text not null,
  scored_at timestamptz not null default clock_timestamp(),
  primary key (model, version, key)
);
create index on mlops.predictions (model, version, observed_at);
create table mlops.quarantine (
  model text not null,
  dataset text not null,
  key text not null,
  observed_at timestamptz,
  reason text not null,
  row jsonb not null,
  run text not null,
  recorded_at timestamptz not null default clock_timestamp(),
  primary key (model, dataset, key)
);
"""

RIGHTS = """
do $$ begin  -- a login that is no superuser has to be a member of the role it hands over to
  if not (select rolsuper from pg_roles where rolname = current_user) then
    execute format('grant mlops_owner to %I', current_user);
    execute format('grant create on database %I to mlops_owner', current_database());
  end if;
end $$;
alter schema mlops owner to mlops_owner;
alter table mlops.decisions owner to mlops_owner;
alter function mlops.append_only() owner to mlops_owner;
alter table mlops.observations owner to mlops_owner;
alter table mlops.predictions owner to mlops_owner;
alter table mlops.quarantine owner to mlops_owner;
revoke all on schema mlops from public;
revoke all on all tables in schema mlops from public, mlops_writer, mlops_reader;
grant usage on schema mlops to mlops_writer, mlops_reader;
grant select on all tables in schema mlops to mlops_writer, mlops_reader;
grant insert (model, seq, prev_hash, hash, body) on mlops.decisions to mlops_writer;
grant insert, update on mlops.observations, mlops.predictions, mlops.quarantine to mlops_writer;
"""


def upgrade() -> None:
    """Make the tables."""
    for part in (ROLES, DECISIONS, OBSERVATIONS, RIGHTS):
        op.execute(part)


def downgrade() -> None:
    """Refuse: a ledger is never dropped by a migration."""
    msg = "the ledger is append-only; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
