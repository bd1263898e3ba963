"""Removals: what went is on record, and what belongs to a person can go."""

from alembic import op

revision = "0002"
down_revision = "0001"

OPERATIONS = """
alter table mlops.decisions drop constraint decisions_op_check;
alter table mlops.decisions add constraint decisions_op_check check (op in (
  'request', 'retrain', 'keep', 'wait', 'ask', 'propose', 'refuse', 'reject',
  'promote', 'rollback', 'observe', 'remove', 'forget'));
grant delete on mlops.predictions, mlops.quarantine to mlops_writer;
"""


def upgrade() -> None:
    """Allow the two operations, and the rights that they need."""
    op.execute(OPERATIONS)


def downgrade() -> None:
    """Refuse: entries of these operations may be on record."""
    msg = "the ledger is append-only; drop schema mlops by hand if you really mean it"
    raise RuntimeError(msg)
