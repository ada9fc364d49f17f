"""What a run should have left and did not, as rows of the quality table."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from perfkit.ingest.frames import finding
from perfkit.ingest.traces import Member
from perfkit.schema import RunFolder

Findings = list[dict[str, Any]]

# From this part of the kernels' time on, kernels of unknown class are worth a warning.
UNKNOWN_SHARE = 0.05

UNKNOWN_END = {
    "running": "it still runs, or perfkit itself was killed (`perfkit collect` finds out)",
    "preparing": "its ranks were never started",
}


def state_findings(run: dict[str, Any]) -> Findings:
    state = run.get("state")
    if state in (None, "finished"):
        return []
    failure = run.get("failure") or {}
    who = f"rank {failure['rank']} on {failure.get('host')} " if "rank" in failure else ""
    reason = str(failure.get("reason") or UNKNOWN_END.get(str(state), f"it is {state}"))
    text = f"this run has not finished: {who}{reason.splitlines()[0]}. What it left is analysed."
    return [finding("run-not-finished", text, rank=failure.get("rank"), source="run.json")]


def status_findings(folder: RunFolder, ranks: Sequence[int]) -> Findings:
    missing = [rank for rank in ranks if not folder.rank_file(rank, "status.json").is_file()]
    if not missing:
        return []
    text = f"ranks {listed(missing)} left no status.json: their node or supervisor died"
    return [finding("missing-status", text, count=len(missing))]


def trace_findings(
    ranks: Sequence[int], missing: Sequence[int], any_file: bool, engine: bool
) -> Findings:
    """Ranks without a usable trace, or a whole run without one; `engine`: of perfkit's own."""
    if not any_file:
        how = (
            "`perfkit run` records one in a captured pass after the timed ones, unless --collect "
            "leaves kineto out"
            if engine
            else "record the program with --collect nsys, where there is a GPU"
        )
        text = f"the split was not measured: no rank left a trace. {how[0].upper()}{how[1:]}"
        return [finding("no-trace", text, count=len(ranks))]
    if not missing:
        return []
    text = f"no usable trace of ranks {listed(missing)}: the split is of the others only"
    return [finding("missing-trace", text, count=len(missing))]


def phase_findings(members: Sequence[Member]) -> Findings:
    """Traces of perfkit's engine in which none of its phases is marked, as it always does."""
    without = [member.rank for member in members if not member.head.any_ranges]
    if not without:
        return []
    text = (
        f"no phase of the engine in the trace of ranks {listed(without)}: its NVTX marks were not "
        "recorded (nsys 2022.4 sees none newer than nvtx 0.2.10), so nothing is told by phase"
    )
    return [finding("no-phases", text, count=len(without))]


def measure_findings(measures: pl.DataFrame) -> Findings:
    """A run of which nothing can be said about speed."""
    if not measures.filter(pl.col("kind") == "timed").is_empty():
        return []
    text = "no whole timed pass in the last stage's timers: TTFT, TPOT, throughput not measured"
    return [finding("no-timed-pass", text)]


def unknown_findings(whole: pl.DataFrame, operations: pl.DataFrame) -> Findings:
    """Kernels that no rule knows, once they are a notable part of the kernels' time."""
    heavy = whole.filter(pl.col("device") != "cpu", pl.col("unknown_share") >= UNKNOWN_SHARE)
    found = []
    for row in heavy.select("rank", "device", "unknown_share").to_dicts():
        mine = (pl.col("rank") == row["rank"]) & (pl.col("device") == row["device"])
        names = operations.filter(mine, pl.col("class") == "unknown")["name"].head(3).to_list()
        text = (
            f"{100 * row['unknown_share']:.0f} % of the kernels' time on rank {row['rank']} is of "
            f"unknown class and counts as compute: {', '.join(names)}"
        )
        found.append(finding("unknown-kernels", text, rank=row["rank"]))
    return found


def listed(ranks: Sequence[int]) -> str:
    """0, 1, 5"""
    return ", ".join(str(rank) for rank in ranks)
