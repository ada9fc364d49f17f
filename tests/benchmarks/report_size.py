"""`perfkit report` of 64 ranks: a recorded pair of ranks, its files copied for 32 pipeline stages.

    python tests/benchmarks/report_size.py [RUN]

Prints one JSON line: seconds and MB of the page, and what part of it is reading and splitting 64
traces. Exit code 3 when the page takes more than 3 s beyond that, or more than 5 MB.
"""

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUN = Path(__file__).parents[2] / "traces" / "h200-8b-tp2-eager"
RANKS, PAIR = 64, 2
SECONDS_GOAL, MB_GOAL = 3.0, 5.0


def main() -> int:
    from perfkit.report.html import context, find, page, vega_bundle

    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RUN
    with tempfile.TemporaryDirectory() as scratch:
        run = many_ranks(source, Path(scratch) / "run")
        vega_bundle()  # made once for a machine
        started = time.perf_counter()
        found = find(run, None, None, None)
        read = time.perf_counter()
        text = page({"run": context(found)}, vega_bundle())
        done = time.perf_counter()
    record: dict[str, Any] = {
        "benchmark": "report",
        "ranks": RANKS,
        "analysis_s": round(read - started, 2),
        "page_s": round(done - read, 2),
        "mb": round(len(text.encode()) / 1e6, 2),
    }
    print(json.dumps(record))
    return 0 if record["page_s"] <= SECONDS_GOAL and record["mb"] <= MB_GOAL else 3


def many_ranks(source: Path, target: Path) -> Path:
    """The pair's run folder as one of 64 ranks."""
    run: dict[str, Any] = json.loads((source / "run.json").read_text())
    layout = run["layout"]
    run["layout"] = [
        {**layout[rank % PAIR], "rank": rank, "pp_rank": rank // PAIR} for rank in range(RANKS)
    ]
    run["config"]["pp"] = RANKS // PAIR
    for rank in range(RANKS):
        folder = target / "ranks" / f"{rank:04d}"
        shutil.copytree(source / "ranks" / f"{rank % PAIR:04d}", folder)
        timers = folder / "timers.jsonl"
        lines = [json.loads(line) for line in timers.read_text().splitlines()]
        for line in lines:
            line.update({"rank": rank, "pp_rank": rank // PAIR} if "rank" in line else {})
        timers.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (target / "run.json").write_text(json.dumps(run))
    return target


if __name__ == "__main__":
    sys.exit(main())
