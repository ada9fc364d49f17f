"""Every number that a sentence can take, as text with its runs: what evidence.typ looks up.

measured("RUN", "tpot")   ttft, tpot, e2e, throughput, memory, wall, load, spread, and of the decode
                          step of the captured pass: step, compute, transfer, wait, idle
ratio("RUN", "RUN", "tpot")   the first over the second
predicted("RUN", "tpot")  ttft, tpot, e2e, throughput, memory
score("TPOT", "graph", "mean")   mean, median, p90, bias, coverage, runs: predicted again
frozen-score("TPOT", "graph", "mean")   likewise, of predictions that were made before the runs
asked("node-hours")       node-hours, gpu-hours, local, reserve
"""

from typing import Any

from perfkit.documents.accuracy_tables import Predictions, Tpot, Values
from perfkit.documents.evidence import Evidence, Run
from perfkit.documents.memory_tables import predicted_parts
from perfkit.documents.request import Computed
from perfkit.predict.memory import GIB
from perfkit.report.tables import significant

NAMES = {
    "ttft": ("ttft_s", 1e3, "ms"),
    "tpot": ("tpot_s", 1e3, "ms"),
    "e2e": ("e2e_s", 1.0, "s"),
    "throughput": ("tokens_per_s", 1.0, "tokens/s"),
}


def run_values(evidence: Evidence, predictions: Predictions) -> dict[str, Values]:
    """By kind, as evidence.typ names them."""
    predicted = {
        run.name: _predicted(run, predictions.tpot(run))
        for run in evidence.runs
        if run.findings.prediction
    }
    return {
        "measured": {run.name: _measured(run) for run in evidence.runs},
        "predicted": predicted,
    }


def _measured(run: Run) -> dict[str, dict[str, Any]]:
    found = {
        name: _value(run.measured(measure), scale, unit, run.name, f"summary.{measure}.median")
        for name, (measure, scale, unit) in NAMES.items()
    }
    found["memory"] = _value(
        run.row["peak_gpu_bytes"], 1 / GIB, "GiB", run.name, "engine.json: device_used_bytes"
    )
    found["wall"] = _value(run.wall_s, 1.0, "s", run.name, "run.json: ended_at - started_at")
    found["load"] = _value(run.facts["load_s"], 1.0, "s", run.name, "engine.json: load_s")
    found["spread"] = _spread(run)
    found |= _step(run)
    return {name: value for name, value in found.items() if value}


def _spread(run: Run) -> dict[str, Any]:
    """Slowest over fastest timed pass - 1, of TPOT."""
    low, high = run.measured("tpot_s", "min"), run.measured("tpot_s", "max")
    if not low or high is None:
        return {}
    text = f"{100 * (high / low - 1):.1f} %"
    query = "summary.tpot_s.max / min - 1"
    return {"text": text, "value": high / low - 1, "runs": [run.name], "query": query}


def _step(run: Run) -> dict[str, dict[str, Any]]:
    """What a decode step of the captured pass is made of, in shares of it."""
    row = run.row
    whole = row["step_ns"]
    if whole is None:
        return {}
    idle = (row["launch_bound_ns"] or 0) + (row["other_ns"] or 0)
    parts = {
        "compute": row["compute_ns"],
        "transfer": row["transfer_ns"],
        "wait": row["wait_ns"],
        "idle": idle,
    }
    query = "step of the captured pass, mean of its ranks"
    found = {
        name: {
            "text": f"{100 * part / whole:.0f} %",
            "value": part / whole,
            "runs": [run.name],
            "query": f"{query}: {name}",
        }
        for name, part in parts.items()
        if part is not None
    }
    found["step"] = _value(whole, 1e-6, "ms", run.name, query)
    return found


def _predicted(run: Run, tpot: Tpot) -> dict[str, dict[str, Any]]:
    """Of a run whose machine has known rates; the headline is in milliseconds already."""
    rows = {row["measure"]: row for row in run.findings.headline.to_dicts()}
    source, found = run.row["rates"], {}
    for name, (measure, _scale, unit) in NAMES.items():
        query = f"comparison_headline.{measure}.predicted, {source}"
        shown = "ms" if unit == "s" else unit
        found[name] = _value(rows[measure]["predicted"], 1.0, shown, run.name, query)
    found["tpot"] = _value(tpot.predicted_s, 1e3, "ms", run.name, tpot.query)
    held = sum(predicted_parts(run).values()) or None
    query = f"comparison_memory.predicted_total_bytes, {source}"
    found["memory"] = _value(held, 1 / GIB, "GiB", run.name, query)
    return {name: value for name, value in found.items() if value}


def request_values(computed: Computed | None) -> Values:
    """Of T4."""
    if computed is None or not computed.lines:
        return {}
    units = computed.amount
    runs = [run for line in computed.lines for run in line.of_runs]
    texts = {
        "node-hours": f"{computed.total:,} node-hours",
        "gpu-hours": None if units.gpu_hours is None else f"{units.gpu_hours:,.1f} GPU-hours",
        "local": None if units.local is None else f"{units.local:,.1f} {units.unit}",
        "reserve": f"{100 * computed.reserve_share:g} %",
    }
    query = f"request on {computed.system.name}"
    return {
        "request": {
            name: {"text": text, "runs": runs, "query": f"{query}: {name}"}
            for name, text in texts.items()
            if text is not None
        }
    }


def _value(value: float | None, scale: float, unit: str, run: str, query: str) -> dict[str, Any]:
    if value is None:
        return {}
    text = f"{significant(value * scale)} {unit}"
    return {"text": text, "value": value * scale, "runs": [run], "query": query}
