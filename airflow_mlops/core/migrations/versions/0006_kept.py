"""
Kept: what was served is found by index; what is rewritten or deleted leaves a trace.

A task may write a finding anew, for a monitor that looks again knows more; and it may delete what
belongs to a person or is older than anybody needs. Neither can be refused to the login of tasks
without a service of its own, so both are put on record, in two tables which that login can read
and cannot change. What it cannot do any more: change a prediction, an exposure, an outcome or a
row set aside, or choose the time at which something was written. What it still can do: write
findings, predictions and outcomes that are not true.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

# The key comes before the version, so that the predictions of a key lie side by side: the view
# looks each asked row's neighbours up, and never sorts a history. Its condition is a scalar query,
# for a join would read everything as soon as the planner has no statistics of new rows.
SERVED = """
alter table mlops.predictions drop constraint predictions_pkey;
alter table mlops.predictions add primary key (model, key, version);
create index predictions_days on mlops.predictions (model, observed_at);
create index predictions_scored on mlops.predictions (model, scored_at);
drop index mlops.observations_model_recorded_at_idx;
create index observations_newest on mlops.observations (model, monitor, recorded_at desc);
create or replace view mlops.served as
  select * from mlops.predictions counted where not shadow and version = (
    select first.version from mlops.predictions first
    where first.model = counted.model and first.key = counted.key and not first.shadow
    order by first.scored_at, first.version limit 1);
"""

# session_user is the login, also within a function that runs as its owner.
TRACES = """
create table mlops.rewritten (
  model text not null,
  monitor text not null,
  subject text not null,
  body jsonb not null,
  recorded_at timestamptz not null,
  rewritten_at timestamptz not null default clock_timestamp(),
  rewritten_by text not null default session_user
);
create index on mlops.rewritten (model, monitor, subject);
create table mlops.deleted (
  what text not null,
  model text not null,
  rows bigint not null,
  since timestamptz,
  until timestamptz,
  deleted_at timestamptz not null default clock_timestamp(),
  deleted_by text not null default session_user
);
create index on mlops.deleted (model, deleted_at);
create function mlops.keep_finding() returns trigger language plpgsql
  security definer set search_path = pg_catalog, pg_temp as $$ begin
  if (new.model, new.monitor, new.subject) is distinct from (old.model, old.monitor, old.subject)
  then raise exception 'a finding of mlops.observations keeps its model, monitor and subject'
    using errcode = 'insufficient_privilege';
  end if;
  if new.recorded_at = old.recorded_at then  -- only the owner has the right to say another time
    new.recorded_at := clock_timestamp();
  end if;
  if new.body is distinct from old.body then
    insert into mlops.rewritten (model, monitor, subject, body, recorded_at)
    values (old.model, old.monitor, old.subject, old.body, old.recorded_at);
  end if;
  return new;
end $$;
create function mlops.keep_deletion() returns trigger language plpgsql
  security definer set search_path = pg_catalog, pg_temp as $$ begin
  execute format('insert into mlops.deleted (what, model, rows, since, until) '
    'select %L, model, count(*), min(%I), max(%I) from gone group by model',
    tg_table_name, tg_argv[0], tg_argv[0]);
  return null;
end $$;
alter table mlops.rewritten owner to mlops_owner;
alter table mlops.deleted owner to mlops_owner;
alter function mlops.keep_finding() owner to mlops_owner;
alter function mlops.keep_deletion() owner to mlops_owner;
revoke all on mlops.rewritten, mlops.deleted from public, mlops_writer, mlops_reader;
revoke all on function mlops.keep_finding(), mlops.keep_deletion() from public;
grant select on mlops.rewritten, mlops.deleted to mlops_writer, mlops_reader;
create trigger keep_finding before update on mlops.observations
  for each row execute function mlops.keep_finding();
alter table mlops.observations enable always trigger keep_finding;
"""

# Table -> when a row of it was written.
DELETED = {
    "observations": "recorded_at",
    "predictions": "scored_at",
    "quarantine": "recorded_at",
    "exposures": "recorded_at",
    "outcomes": "recorded_at",
}
DELETION = """
create trigger keep_deletion after delete on mlops.{table} referencing old table as gone
  for each statement execute function mlops.keep_deletion('{column}');
alter table mlops.{table} enable always trigger keep_deletion;
"""
RIGHTS = """
revoke insert, update, delete on mlops.observations, mlops.predictions, mlops.quarantine,
  mlops.exposures, mlops.outcomes from mlops_writer;
grant insert (model, monitor, subject, body), update (body) on mlops.observations to mlops_writer;
grant insert (model, version, key, observed_at, prediction, dataset, run, scores, shadow)
  on mlops.predictions to mlops_writer;
grant insert (model, dataset, key, observed_at, reason, row, run)
  on mlops.quarantine to mlops_writer;
grant insert (model, experiment, key, entity, arm, version, exposed_at, latency_ms, failed)
  on mlops.exposures to mlops_writer;
grant insert (model, experiment, key, metric, value) on mlops.outcomes to mlops_writer;
grant delete on mlops.predictions, mlops.quarantine, mlops.exposures, mlops.outcomes
  to mlops_writer;
"""


def upgrade() -> None:
    """Find by index what was served, and keep a trace of what goes."""
    op.execute(SERVED)
    op.execute(TRACES)
    for table, column in DELETED.items():
        op.execute(DELETION.format(table=table, column=column))
    op.execute(RIGHTS)


def downgrade() -> None:
    """Refuse: who reads what was served may rest on it."""
    msg = "decisions rest on what is kept; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
