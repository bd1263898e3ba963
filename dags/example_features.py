"""Features by SQL, in a plain Dag: what was known when each half hour began, as a dataset."""

from airflow.sdk import DAG

from airflow_mlops.operators.data import MaterializeFeaturesOperator, SnapshotTableOperator

ROWS, KNOWN = "example_market", "example_market.known"

# Labels become known a week later: a row sees the newest label that was there at its own time.
SQL = """
select r.id, r.observed_at, r.day, r.period, r.nswdemand,
       avg(r.nswdemand) over (
         order by r.observed_at range between interval 1 day preceding and current row
       ) as demand_of_the_day,
       l.price_up as up_a_week_ago
from market as r
asof left join labels as l on r.observed_at >= l.observed_at + interval 7 days
"""

with DAG("example_features", schedule=None, catchup=False, max_active_runs=1, tags=["example"]):
    shared = {"model": ROWS, "key": "id", "time": "observed_at", "window": "7d"}
    rows = SnapshotTableOperator(task_id="rows", table="public.electricity", dataset=ROWS, **shared)
    labels = SnapshotTableOperator(
        task_id="labels",
        table="(select id, observed_at, price_up from public.electricity_labels)",
        dataset=f"{ROWS}.labels",
        windows_of=ROWS,
        **shared,
    )
    known = MaterializeFeaturesOperator(
        task_id="known",
        sql=SQL,
        inputs={"market": ROWS, "labels": f"{ROWS}.labels"},
        known_after={"labels": "7d"},
        dataset=KNOWN,
        windows_of=ROWS,
        **shared,
    )
    rows >> labels >> known
