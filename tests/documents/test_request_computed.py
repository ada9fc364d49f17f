"""The resource request: every line from its own source, and a sum that is the request."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from document_parts import evidence_of, timed_run

from perfkit.documents.evidence import Evidence
from perfkit.documents.plan_tables import jobs_table, request_table, units_table
from perfkit.documents.request import Computed, check_limits, compute
from perfkit.documents.request_lines import Basis, minutes_up
from perfkit.documents.settings import Jobs, Phase, Request
from perfkit.errors import ConfigError
from perfkit.study.systems import load_system

LEONARDO, LUMI = load_system("leonardo"), load_system("lumi-g")
NOTHING = Evidence(runs=())


def asked(
    *phases: dict[str, Any], evidence: Evidence = NOTHING, system: Any = LEONARDO
) -> Computed:
    request = Request(reserve=0.1, phases=[Phase(**phase) for phase in phases])
    return compute(request, Basis(system=system, evidence=evidence))


def printed(computed: Computed) -> dict[str, str]:
    """{phase: node-hours} as T4 prints them."""
    return {row[0].text: row[7].text for row in request_table(computed).rows}


def test_the_printed_lines_and_the_reserve_are_the_printed_request() -> None:
    computed = asked(
        {"name": "a", "nodes": 3, "hours_per_run": 0.1, "runs": 7},
        {"name": "b", "nodes": 1, "gpus_per_node": 1, "hours_per_run": 0.33, "runs": 1},
        {"name": "c", "nodes": 4, "hours_per_run": 6.0, "runs": 40},
    )
    found = printed(computed)
    assert found == {
        "a": "2.1",
        "b": "0.1",
        "c": "960.0",
        "sum": "962.2",
        "reserve, 10 %": "96.3",
        "request": "1,058.5",
    }
    numbers = [Decimal(text.replace(",", "")) for text in found.values()]
    assert sum(numbers[:3]) == numbers[3]
    assert numbers[3] + numbers[4] == numbers[5]


def test_the_request_is_the_same_in_every_unit() -> None:
    computed = asked({"name": "a", "nodes": 10, "hours_per_run": 10.0, "runs": 10})
    units = computed.amount
    assert (computed.total, units.gpu_hours, units.local) == (Decimal("1100.0"), 4400.0, 35200.0)
    rows = {row[0].text: row[3].text for row in units_table(LEONARDO, 1100.0).rows}
    assert rows == {
        "node-hour": "1,100.0",
        "GPU-hour": "4,400.0",
        "core-hour": "35,200.0",
        "local core-hours": "35,200.0",
    }


def test_two_of_four_gpus_cost_half_a_node_only_where_nodes_are_shared() -> None:
    phase = {"name": "a", "nodes": 1, "gpus_per_node": 2, "hours_per_run": 1.0, "runs": 10}
    assert asked(phase).subtotal == Decimal("5.0")
    assert asked(phase, system=LUMI).subtotal == Decimal("10.0")


def test_a_study_s_jobs_take_their_time_limit() -> None:
    computed = asked({"name": "scaling", "study": "scaling-70b"})
    lines = [
        (line.nodes, line.gpus_per_node, line.hours_per_run, line.runs) for line in computed.lines
    ]
    assert lines == [(2, 2, 1.0, 9), (3, 2, 1.0, 9)]
    assert [line.node_hours for line in computed.lines] == [Decimal("9.0"), Decimal("13.5")]
    assert {line.basis for line in computed.lines} == {"time limit"}


def test_what_does_not_fit_is_not_asked_for_and_said() -> None:
    notes = asked({"name": "scaling", "study": "scaling-70b"}).notes
    assert len(notes) == 3
    assert notes[0].startswith(
        "scaling: 3 jobs of study scaling-70b are not in the request, tp2-pp1-b1-r1 and its like: "
        "a rank needs 69.3 GiB"
    )


def test_predicted_hours_are_called_so_and_have_the_setup_in_them() -> None:
    phase = {"name": "scaling", "study": "scaling-70b", "hours": "predicted", "setup_minutes": 20}
    lines = asked(phase).lines
    assert {line.basis for line in lines} == {"predicted"}
    assert all(1 / 3 < line.hours_per_run < 1 / 2 for line in lines)


def test_measured_hours_name_their_run(tmp_path: Path) -> None:
    evidence = evidence_of(timed_run(tmp_path / "base", minutes=30))
    computed = asked({"name": "a", "like": "base", "times": 3, "runs": 10}, evidence=evidence)
    (line,) = computed.lines
    assert (line.basis, line.hours_per_run, line.of_runs) == ("measured", 1.5, ("base",))
    assert (line.part, line.node_hours) == (0.25, Decimal("3.8"))
    assert computed.notes == (
        "a: the time was measured on a processor, leonardo has NVIDIA A100 custom 64 GB (Leonardo)",
    )
    cell = request_table(computed).rows[0][4]
    assert (cell.text, cell.runs) == ("1.50", ("base",))


def test_a_run_that_is_not_there_asks_for_nothing_and_says_so() -> None:
    computed = asked({"name": "a", "like": "gone"})
    assert (computed.lines, computed.total) == ((), Decimal(0))
    table = request_table(computed)
    assert table.missing == "a: not in the request, for gone is not among the runs"


def test_a_study_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no study 'nonesuch'"):
        asked({"name": "a", "study": "nonesuch"})


def test_jobs_that_the_partition_refuses_are_named() -> None:
    computed = asked(
        {"name": "wide", "nodes": 65, "hours_per_run": 1.0},
        {"name": "long", "nodes": 1, "hours_per_run": 25.0},
    )
    assert check_limits(computed) == [
        "wide: 65 nodes, leonardo gives 64",
        "long: 25 h a run, leonardo gives 24 h",
    ]


def test_the_job_profile_is_of_the_request() -> None:
    computed = asked(
        {"name": "a", "nodes": 2, "hours_per_run": 1.0, "runs": 3},
        {"name": "b", "nodes": 8, "hours_per_run": 6.0, "runs": 1},
    )
    rows = {row[0].text: row[1].text for row in jobs_table(computed, Jobs(concurrent=2)).rows}
    assert rows == {
        "most nodes of a job": "8",
        "jobs in all": "4",
        "typical wall time of a job [h]": "1.00",
        "longest wall time of a job [h]": "6.00",
        "jobs at the same time": "2",
        "memory of a node [GB]": "-",
        "checkpointing": "-",
    }


def test_hours_are_whole_minutes_upwards() -> None:
    assert minutes_up(0.5) == 0.5
    assert minutes_up(0.501) == pytest.approx(31 / 60)
