"""
Retention: old findings go, but never one that a decision names.

The login of tasks may not delete findings. It may call a function that deletes old ones: none of
the last seven days, none that an entry of the ledger names, and not the newest of its monitor.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

# What is no list of names in an entry is not this package's, and names nothing.
CITED = """
create table mlops.cited (
  model text not null,
  monitor text not null,
  subject text not null,
  primary key (model, monitor, subject)
);
create function mlops.keep_citations() returns trigger language plpgsql
  security definer set search_path = pg_catalog, pg_temp as $$
declare named jsonb := new.body::jsonb #> '{evidence,cited,findings}';
begin
  if jsonb_typeof(named) = 'array' then
    insert into mlops.cited select distinct new.model, one ->> 0, one ->> 1
      from jsonb_array_elements(named) one
      where jsonb_typeof(one) = 'array' and one ->> 0 is not null and one ->> 1 is not null
      on conflict do nothing;
  end if;
  return null;
end $$;
create view mlops.uncited as
  select * from mlops.observations kept
  where not exists (select from mlops.cited where (cited.model, cited.monitor, cited.subject)
    = (kept.model, kept.monitor, kept.subject))
  and exists (select from mlops.observations later where later.model = kept.model
    and later.monitor = kept.monitor and later.recorded_at > kept.recorded_at);
create index on mlops.quarantine (model, recorded_at);
create index on mlops.rewritten (model, rewritten_at);
"""
PRUNE = """
create function mlops.prune_findings(
  which text, monitors text[], others boolean, before timestamptz, champion text, batch bigint
) returns bigint language plpgsql
  security definer set search_path = pg_catalog, pg_temp as $$
declare gone bigint; traces bigint;
begin
  if before is null or before > now() - interval '7 days' then
    raise exception 'findings of the last 7 days stay' using errcode = 'insufficient_privilege';
  end if;
  with old as (select monitor, subject from mlops.uncited where model = which
    and (monitor = any(monitors)) <> others and recorded_at < before
    and not (champion <> '' and starts_with(subject, champion)) limit batch)
  delete from mlops.observations kept using old where kept.model = which
    and kept.monitor = old.monitor and kept.subject = old.subject and kept.recorded_at < before;
  get diagnostics gone = row_count;
  delete from mlops.rewritten where ctid = any(array(
    select ctid from mlops.rewritten trace where model = which
    and (monitor = any(monitors)) <> others and rewritten_at < before
    and not exists (select from mlops.cited where (cited.model, cited.monitor, cited.subject)
      = (trace.model, trace.monitor, trace.subject)) limit batch));
  get diagnostics traces = row_count;
  return greatest(gone, traces);
end $$;
"""
RIGHTS = """
alter table mlops.cited owner to mlops_owner;
alter view mlops.uncited owner to mlops_owner;
alter function mlops.keep_citations() owner to mlops_owner;
alter function mlops.prune_findings(text, text[], boolean, timestamptz, text, bigint)
  owner to mlops_owner;
revoke all on mlops.cited, mlops.uncited from public, mlops_writer, mlops_reader;
revoke all on function mlops.keep_citations() from public;
revoke all on function mlops.prune_findings(text, text[], boolean, timestamptz, text, bigint)
  from public;
grant select on mlops.cited, mlops.uncited to mlops_writer, mlops_reader;
grant execute on function mlops.prune_findings(text, text[], boolean, timestamptz, text, bigint)
  to mlops_writer;
create trigger keep_citations after insert on mlops.decisions
  for each row execute function mlops.keep_citations();
alter table mlops.decisions enable always trigger keep_citations;
"""


def upgrade() -> None:
    """Note what decisions name, and let the rest go when it is old."""
    op.execute(CITED)
    op.execute(PRUNE)
    op.execute(RIGHTS)


def downgrade() -> None:
    """Refuse: what decisions name would be forgotten."""
    msg = "decisions rest on what is kept; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
