"""Rollouts: votes of approvers, stages of a rollout, adopted aliases; answers of several classes."""

from alembic import op

revision = "0003"
down_revision = "0002"

OPERATIONS = """
alter table mlops.decisions drop constraint decisions_op_check;
alter table mlops.decisions add constraint decisions_op_check check (op in (
  'request', 'retrain', 'keep', 'wait', 'ask', 'propose', 'refuse', 'reject',
  'promote', 'rollback', 'observe', 'remove', 'forget', 'vote', 'stage', 'adopt'));
alter table mlops.predictions add column scores double precision[];
"""


def upgrade() -> None:
    """Allow the three operations, and room for one probability per class."""
    op.execute(OPERATIONS)


def downgrade() -> None:
    """Refuse: entries of these operations may be on record."""
    msg = "the ledger is append-only; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
