"""provenance.json: every number of a document -> the table and column it is from -> run folders ->
the versions that recorded them."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from perfkit import __version__
from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.figures import DocFigure
from perfkit.documents.tables import DocTable, origins
from perfkit.documents.typeset import Typeset


def provenance(
    document: str,
    typeset: Typeset,
    evidence: Evidence,
    tables: Mapping[str, DocTable],
    figures: Mapping[str, DocFigure],
    values: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
    *,
    appendix: bool,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The document's record; `more` has the exact request and what else it rests on."""
    return {
        "document": document,
        "sha256": hashlib.sha256(typeset.pdf).hexdigest(),
        "made_by": f"perfkit {__version__}",
        "runs": {run.name: record_of(run) for run in evidence.runs},
        "left_out": list(evidence.left_out),
        "tables": {
            table.id: {
                "caption": table.caption,
                "printed": appendix or table.id in typeset.placed,
                "cells": origins(table),
            }
            for table in tables.values()
            if not table.missing
        },
        "figures": {
            figure.id: {
                "caption": figure.caption,
                "printed": appendix or figure.id in typeset.placed,
                "query": figure.query,
                "runs": list(figure.runs),
            }
            for figure in figures.values()
            if not figure.missing
        },
        "sentences": [_sentence(one, values) for one in typeset.numbers],
        "not_measured": _not_measured([*tables.values(), *figures.values()]),
        **more,
    }


def record_of(run: Run) -> dict[str, Any]:
    """Who recorded a run, when and with what; the commit where run.json has it."""
    versions = dict(run.record.get("versions") or {})
    return {
        "id": run.record.get("id"),
        "state": run.record.get("state"),
        "started_at": run.record.get("started_at"),
        "ended_at": run.record.get("ended_at"),
        "run_json_sha256": run.digest,
        "recorded_by": {
            "perfkit": versions.pop("perfkit", None),
            "commit": run.record.get("commit"),
        },
        "versions": versions,
        "predicted_from": run.findings.rates_source,
        "not_predicted": run.findings.no_prediction,
    }


def _sentence(
    one: Mapping[str, Any], values: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
) -> dict[str, Any]:
    """`measured RUN tpot` as the text asked for it, with its query."""
    kind, rest = str(one["query"]).split(" ", 1)
    key, name = rest.rsplit(" ", 1)
    first = key.partition(" / ")[0]
    query = values[kind][first][name]["query"]
    return {
        "text": one["text"],
        "kind": kind,
        "query": query if first == key else f"{query}: the first run over the second",
        "runs": list(one["runs"]),
    }


def _not_measured(parts: Sequence[DocTable | DocFigure]) -> list[dict[str, str]]:
    return [
        {"id": one.id, "caption": one.caption, "why": one.missing, "get": one.get}
        for one in parts
        if one.missing
    ]
