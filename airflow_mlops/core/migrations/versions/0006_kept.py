"""Kept: what was served is found by index."""

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


def upgrade() -> None:
    """Read one day of what was served without the rest."""
    op.execute(SERVED)


def downgrade() -> None:
    """Refuse: who reads what was served may rest on it."""
    msg = "decisions rest on what is kept; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
