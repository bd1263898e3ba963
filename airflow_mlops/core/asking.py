"""What the ledger is asked, in SQL: as much as a decision needs, whatever its length."""

from typing import LiteralString

# The newest entry with a sum, unless it counted what was set aside after it; all entries since; and
# of earlier ones, what moved somebody since the champion of now. Without any sum, of what moved
# somebody before that champion only the generated columns are read. The lists of operations are
# written out, for the indexes know them.
STANDING: LiteralString = """
with mine as not materialized (select * from mlops.decisions where model = %(model)s),
moves as not materialized (select * from mine where op in (
  'propose', 'refuse', 'reject', 'promote', 'rollback', 'adopt', 'stage', 'vote')),
said as (select seq, case when jsonb_typeof(body::jsonb #> '{evidence,entry}') = 'number'
    then (body::jsonb #>> '{evidence,entry}')::numeric end as about
  from mine where op in ('set_aside', 'vouch')),
since as (select
  (select max(seq) from mine where summed and not exists (
    select from said where about <= mine.seq and mine.seq <= said.seq)) as base,
  (select coalesce(max(seq), 0) - %(tail)s from mine) as newest,
  (select max(seq) from moves where op in ('promote', 'rollback', 'adopt')) as epoch),
cut as (select coalesce(base - 1, newest) as seq, base, coalesce(epoch, 0) as epoch from since)
select seq, body, hash, prev_hash, signature, op, version, claim, (select base from cut)
  from mine where seq > (select seq from cut)
union all
(select seq, case when seq >= (select epoch from cut) then body end,
  hash, prev_hash, signature, op, version, claim, (select base from cut)
  from moves where seq <= (select seq from cut) and key <> %(key)s
  and ((select base from cut) is null or seq >= (select epoch from cut))
  order by seq desc limit case when (select base from cut) is null then null else 1000 end)
union all
select seq, body, hash, prev_hash, signature, op, version, claim, (select base from cut)
  from mine where key = %(key)s and seq <= (select seq from cut)
order by seq
"""

SAID: LiteralString = """
select seq, body, hash, prev_hash, signature from mlops.decisions
where model = %s and op in ('set_aside', 'vouch') order by seq
"""

# What a tick of the monitor weighs: the newest attempts, requests that nobody has answered, and
# what the clock of the data said when the champion of now became it.
WEIGHED: LiteralString = """
with mine as not materialized (select * from mlops.decisions where model = %(model)s)
(select seq, body, hash, prev_hash, signature from mine where op = 'retrain'
  order by seq desc limit 500)
union all
(select seq, body, hash, prev_hash, signature from mine where op = 'request' and not exists (
  select from mine done where done.answers = mine.seq) order by seq limit 100)
union all
(select seq, body, hash, prev_hash, signature from mine
  where op in ('retrain', 'keep', 'wait', 'ask') and seq < %(epoch)s order by seq desc limit 1)
union all
(select seq, body, hash, prev_hash, signature from mine where op = any(%(ops)s)
  order by seq desc limit %(last)s)
"""
