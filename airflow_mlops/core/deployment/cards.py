"""
Cards: what people read about a model or a dataset before they decide, as Markdown and as HTML.

Source: Mitchell et al., Model Cards for Model Reporting, 2019; Gebru et al., Datasheets for
Datasets, 2021.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_mlops.core.data.contract import logical_types
from airflow_mlops.core.data.profile import NumericProfile, Profile
from airflow_mlops.core.reports.markdown import markdown_table, plain

if TYPE_CHECKING:
    from airflow_mlops.core.data.tables import Table
    from airflow_mlops.core.deployment.lineage import Lineage
    from airflow_mlops.core.refs import ModelRef

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2rem .6rem;text-align:left}"
    "code{background:#f3f3f3}"
)


def model_card(found: "Lineage") -> str:
    """Describe a model version: what it predicts and from what, how it was judged, who said yes."""
    return _document(
        f"Model {found.model}",
        "champion" if found.champion else "not champion now",
        [
            "## What it is",
            *_made(found),
            "## How it was judged",
            *_judged(found),
            "## What it may be asked",
            "Rows like those it was trained on; others are reported, and a null where there was "
            "none is set aside.",
            "",
            *markdown_table(
                ("column", "type", "nulls", "range or values"),
                (
                    (c["name"], c["type"], "yes" if c["nullable"] else "no", _range(c))
                    for c in found.about["contract"]["columns"]
                ),
            ),
            "## Who decided",
            *markdown_table(
                ("entry", "when", "what", "by", "reason"),
                ((e.seq, e.at[:19], e.op, e.by, e.reason) for e in found.decisions),
            ),
            "## What it did",
            f"Predictions: {found.served}.",
        ],
    )


def candidate_card(
    ref: "ModelRef",
    champion: int | None,
    evidence: Mapping[str, Any],
    url: str,
    *,
    contract: Sequence[str] = (),
) -> str:
    """
    Describe a candidate in Markdown: what it is, what it was measured to do, what is uncertain.

    :param evidence: of the ledger's proposal.
    :param contract: what it asks of the rows that the champion does not, in words.
    """
    found, verdict = evidence["evaluation"], evidence["verdict"]
    against = f"{ref.name}@{champion}" if champion is not None else "no champion yet"
    lines = [
        f"**{ref}** against **{against}** ([in MLflow]({url}))",
        "",
        f"Why it was trained: {plain(evidence['why'])}",
        "",
        f"Judged on rows from {found['since']} to {found['until']}, which it has not seen. "
        f"{plain(found['note'])}",
        "",
        *(f"* Contract: {plain(change)}" for change in contract),
        *([""] if contract else []),
        *markdown_table(
            ("condition", "result", "numbers"),
            ((c["gate"], c["status"], c["reason"]) for c in verdict["checks"]),
        ),
        *markdown_table(
            ("metric", "value", "95 % interval"),
            (
                (m["metric"], f"{m['value']:.4f}", f"{m['low']:.4f} to {m['high']:.4f}")
                for m in found["metrics"]
            ),
        ),
    ]
    return "\n".join(lines)


def data_card(table: "Table") -> str:
    """Describe a dataset version: where its rows come from, and what is in each column."""
    sidecar, profile = table.sidecar, table.between().profile()
    commit, forgotten = sidecar.commit, len(sidecar.forgotten)
    types = logical_types(table.schema)
    return _document(
        f"Dataset {table.ref}",
        f"{table.rows:,} rows",
        [
            "## Where it comes from",
            *_pairs(
                ("source", commit.origin or "not on record"),
                ("query", f"{commit.query} ({commit.query_hash})" if commit.query else "?"),
                ("written", f"{commit.created_at} by {commit.author or 'nobody knows whom'}"),
                ("by run", commit.run or "not on record"),
                ("rows observed", f"{table.windows()[0].start} to {commit.watermark}"),
                ("windows", f"{len(table.windows())} of {table.window}"),
                ("key, time", f"{table.key}, {table.time}"),
                ("content digest", table.digest),
                ("contract", _contract(sidecar.adopted)),
                *([("rows", f"gone, {table.removed}")] if table.removed else []),
                *([("forgotten on request", f"{forgotten} times")] if forgotten else []),
            ),
            "## What is in it",
            *markdown_table(
                ("column", "type", "missing", "range or values"),
                (
                    (name, types[name], *_content(profile, name, key=table.key))
                    for name in table.schema.names
                    if name in profile.columns
                ),
            ),
        ],
    )


def to_html(markdown: str) -> str:
    """Return a card as one HTML page; what names and reasons contain is shown, and not followed."""
    from markdown_it import MarkdownIt

    title = html.escape(markdown.partition("\n")[0].removeprefix("# "))
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    body = reader.disable(["image", "link", "autolink"]).render(markdown)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n{body}</html>\n"
    )


def _document(title: str, state: str, parts: Sequence[str]) -> str:
    return "\n".join([f"# {title}", "", f"*{state}*", "", *parts, ""])


def _contract(adopted: Mapping[str, int]) -> str:
    later = ", ".join(f"{name} since version {n}" for name, n in adopted.items())
    return f"version {max(adopted.values(), default=1)}{'; ' if later else ''}{later}"


def _made(found: "Lineage") -> list[str]:
    recipe, estimator = found.recipe, found.about["estimator"]
    caution = "" if estimator["format"] != "pickle" else "; opening it runs code (pickle)"
    return _pairs(
        ("predicts", f"{recipe['label']} of {recipe['labels']}"),
        ("from", recipe["data"]),
        ("rows observed", f"{recipe['since']} to {recipe['until']}"),
        ("features", recipe["features"]),
        ("estimator", f"{estimator['type']}, stored as {estimator['format']}{caution}"),
        ("trained by", f"{recipe['train']}, seed {recipe['seed']}"),
        ("parameters", json.dumps(dict(recipe["params"]), sort_keys=True)),
        ("code", recipe["code"]),
        ("environment", recipe["environment"]),
        ("files", found.digest),
        ("MLflow run", found.run_id),
    )


def _judged(found: "Lineage") -> list[str]:
    judged = found.evaluation
    if not judged:
        return ["It was not judged offline.", ""]
    against = judged["champion"] or "no champion"
    lines = [f"On rows from {judged['since']} to {judged['until']}, against {against}.", ""]
    if judged["note"]:
        lines += [plain(judged["note"]), ""]
    return lines + markdown_table(
        ("metric", "value", "95 % interval"),
        (
            (m["metric"], f"{m['value']:.4f}", f"{m['low']:.4f} to {m['high']:.4f}")
            for m in judged["metrics"]
        ),
    )


def _pairs(*pairs: tuple[str, object]) -> list[str]:
    return markdown_table(("what", "it is"), pairs)


def _range(column: dict[str, Any]) -> str:
    if column["categories"] is not None:
        return ", ".join(column["categories"])
    if column["minimum"] is None:
        return "text"
    return f"{column['minimum']:g} to {column['maximum']:g}"


def _content(profile: Profile, name: str, *, key: str) -> tuple[str, str]:
    """Return share missing, and range or most frequent values, of one column; no key is named."""
    found = profile.columns[name]
    missing = f"{found.missing / found.rows:.1%}" if found.rows else "no rows"
    if name == key:
        return missing, "names a row"
    if isinstance(found, NumericProfile):
        if found.times or found.low > found.high:
            return missing, "times" if found.times else "no value"
        return missing, f"{found.low:g} to {found.high:g}, mean {found.mean:g}"
    frequent = sorted(found.values.items(), key=lambda pair: -pair[1])[:5]
    return missing, ", ".join(f"{value} ({count:,})" for value, count in frequent)
