"""What-if: a step small enough to replay by hand, and real ones that must come out unchanged."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from run_builder import a_run
from test_split import kernel
from test_waits import collective, whole_table

from perfkit.errors import ConfigError
from perfkit.ingest.frames import ACTIVITIES, SYNCS
from perfkit.timeline.analysis import analyze_paths
from perfkit.timeline.peers import HANDOVERS
from perfkit.timeline.replay import Change, Replay, replay
from perfkit.timeline.waits import WAITS
from perfkit.timeline.whatif import whatif

REAL = Path(__file__).parents[1] / "data" / "kineto"


def replayed(
    *rows: dict[str, Any],
    change: Change | None = None,
    syncs: list[tuple[int, str, int, int]] | None = None,
    handovers: list[tuple[int, int, int, int, int]] | None = None,
) -> Replay:
    matched = any(row["group"] for row in rows)
    return replay(
        pl.DataFrame(rows, schema=ACTIVITIES),
        whole_table(*rows) if matched else pl.DataFrame(schema=WAITS),
        pl.DataFrame(syncs or [], schema=SYNCS, orient="row"),
        pl.DataFrame(handovers or [], schema=HANDOVERS, orient="row"),
        change or Change(),
    )


def launch_bound() -> list[dict[str, Any]]:
    """Launches every 100 ns, kernels of 10 ns that start 5 ns after their launch."""
    return [kernel("compute", 100 * i + 5, 100 * i + 15, 100 * i) for i in range(10)]


def test_a_launch_bound_step_is_the_hosts() -> None:
    unchanged = replayed(*launch_bound())
    assert (unchanged.measured_ns, unchanged.replayed_ns) == (915, 915)
    assert unchanged.path_ns["host"] == 905
    assert replayed(*launch_bound(), change=Change(launch=0.5)).replayed_ns == 452.5 + 10
    # Without launches the device is the limit: ten kernels in a row.
    assert replayed(*launch_bound(), change=Change(launch=0)).replayed_ns == 100


def test_faster_kernels_do_not_help_a_launch_bound_step() -> None:
    rows = [dict(row, family="gemm") for row in launch_bound()]
    assert replayed(*rows, change=Change(kernels={"gemm": 0.0})).replayed_ns == 905


def queue_bound() -> list[dict[str, Any]]:
    """Everything launched at once; kernels of 100 ns with 2 ns between them."""
    return [kernel("compute", 10 + 102 * i, 110 + 102 * i, i) for i in range(5)]


def test_a_device_bound_step_is_the_kernels() -> None:
    assert replayed(*queue_bound()).replayed_ns == 518
    half = replayed(*queue_bound(), change=Change(kernels={"compute": 0.5}))
    assert half.replayed_ns == 10 + 5 * 50 + 4 * 2
    assert replayed(*queue_bound(), change=Change(launch=0)).replayed_ns == 508


def ranks_of_two() -> list[dict[str, Any]]:
    """Rank 1 computes 80 ns longer; both then reduce for 20 ns and go on for 10."""
    return [
        dict(kernel("compute", 10, 110, 0), rank=0, device="cuda:0"),
        dict(kernel("compute", 10, 190, 0), rank=1, device="cuda:1"),
        collective(0, 110, 210, launch_ns=1),
        collective(1, 190, 210, launch_ns=1),
        dict(kernel("compute", 210, 220, 2), rank=0, device="cuda:0"),
        dict(kernel("compute", 210, 220, 2), rank=1, device="cuda:1"),
    ]


def test_a_collective_ends_when_its_last_rank_has_come() -> None:
    unchanged = replayed(*ranks_of_two())
    assert unchanged.replayed_ns == 220
    assert unchanged.path_ns["compute"] == 190
    assert replayed(*ranks_of_two(), change=Change(comm=0.5)).replayed_ns == 210
    # Rank 1 stays the last to come: a half of its 180 ns, then 20, then a half of 10.
    faster = replayed(*ranks_of_two(), change=Change(kernels={"compute": 0.5}))
    assert faster.replayed_ns == 10 + 90 + 20 + 5


def test_a_host_that_waits_launches_later() -> None:
    """A synchronisation from 20 to 115 waits for the kernel that ends at 110."""
    rows = [kernel("compute", 10, 110, 0), kernel("compute", 125, 135, 120)]
    waiting = [(0, "cudaStreamSynchronize", 20, 115)]
    assert replayed(*rows, syncs=waiting).replayed_ns == 135
    half = replayed(*rows, syncs=waiting, change=Change(kernels={"compute": 0.5}))
    assert half.replayed_ns == 60 + 5 + 5 + 5 + 5


def test_a_host_that_waits_for_tokens_launches_after_they_were_sent() -> None:
    """Rank 1 sends at 100, after its kernel; rank 0 has them at 103 and launches at 110."""
    rows = [
        dict(kernel("compute", 10, 90, 0), rank=1, device="cuda:1"),
        dict(kernel("compute", 115, 120, 110), rank=0, device="cuda:0"),
    ]
    waiting = [(1, "cudaStreamSynchronize", 5, 92)]
    tokens = [(0, 2, 103, 1, 100)]
    assert replayed(*rows, syncs=waiting, handovers=tokens).replayed_ns == 120
    half = replayed(*rows, syncs=waiting, handovers=tokens, change=Change(kernels={"compute": 0.5}))
    # 10 + 40, 2 to leave the call, 8 to the sending, 3 to arrive, 7 to the launch, 5, 2.5
    assert half.replayed_ns == 50 + 2 + 8 + 3 + 7 + 5 + 2.5


@pytest.mark.parametrize("path", sorted(REAL.iterdir()), ids=lambda path: path.name)
def test_a_real_trace_is_reproduced(path: Path) -> None:
    found = whatif(analyze_paths([path])[0], Change())
    assert found.measured_ns > 0
    assert found.ratio == pytest.approx(1.0, abs=0.02)
    assert sum(found.path_ns.values()) == pytest.approx(found.replayed_ns, rel=0.02)


def test_a_run_of_two_ranks_is_reproduced(tmp_path: Path) -> None:
    found = whatif(analyze_paths([a_run(tmp_path / "run")])[0], Change())
    assert found.ratio == pytest.approx(1.0, abs=0.02)


def test_a_family_that_is_not_there_is_refused(tmp_path: Path) -> None:
    analysis = analyze_paths([a_run(tmp_path / "run")])[0]
    with pytest.raises(ConfigError, match="--kernel fft: no operation of the trace"):
        whatif(analysis, Change(kernels={"fft": 0.5}))
