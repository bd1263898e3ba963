"""
Examples: keys and values of rows that findings show can be forgotten.

A finding may name rows, so that people can look at them; what stands instead of that, with numbers
alone, is in its field ``plain``. One function puts that in its place, in old findings too, and in
those that were written over: the login of tasks may call it, and cannot change them otherwise. The
time and the status of a finding stay; how many were changed is on record in ``mlops.deleted``.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

# A finding of a release before has no field ``plain``. The condition of a trigger is asked as
# whoever writes: the login of tasks, or the owner of a function that it calls.
EXAMPLES = """
create function mlops.without_examples(body jsonb) returns jsonb language sql immutable
  set search_path = pg_catalog, pg_temp as $$
  select body - 'plain' || case when body ? 'plain' then (
      select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(body -> 'plain')
      where key in ('line', 'breaks', 'fatal', 'late', 'early', 'until'))
    else '{"line": "(forgotten)", "breaks": [], "fatal": [], "late": [], "early": [], "until": ""}'
    end || '{"examples": "(forgotten)"}' $$;
create function mlops.forget_examples(of_model text) returns bigint language plpgsql
  security definer set search_path = pg_catalog, pg_temp as $$
declare
  found bigint;
  old bigint;
begin
  update mlops.observations set body = mlops.without_examples(body) where model = of_model
    and (body ? 'plain' or (monitor in ('contract', 'late') and not body ? 'examples'));
  get diagnostics found = row_count;
  update mlops.rewritten set body = mlops.without_examples(body) where model = of_model
    and (body ? 'plain' or (monitor in ('contract', 'late') and not body ? 'examples'));
  get diagnostics old = row_count;
  if found + old > 0 then
    insert into mlops.deleted (what, model, rows) values ('examples', of_model, found + old);
  end if;
  return found + old;
end $$;
drop trigger keep_finding on mlops.observations;
create trigger keep_finding before update on mlops.observations
  for each row when (current_user <> 'mlops_owner') execute function mlops.keep_finding();
alter table mlops.observations enable always trigger keep_finding;
alter function mlops.without_examples(jsonb) owner to mlops_owner;
alter function mlops.forget_examples(text) owner to mlops_owner;
revoke all on function mlops.without_examples(jsonb), mlops.forget_examples(text) from public;
grant execute on function mlops.forget_examples(text) to mlops_writer;
"""


def upgrade() -> None:
    """Let findings be without what they show of rows."""
    op.execute(EXAMPLES)


def downgrade() -> None:
    """Refuse: what was forgotten does not come back."""
    msg = "what was forgotten does not come back; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
