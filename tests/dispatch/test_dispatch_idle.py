"""Why a replica was idle: causes by hand, and the identity that nothing is lost or twice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit.dispatch.idle import CAUSES, Life, Supply, divide_time, overlap_ns

MOMENTS = st.integers(0, 1000)


def test_a_gap_before_a_batch_is_starved_until_it_is_ready_and_handed_over_after() -> None:
    supply = Supply(ready_at=[10, 40], begun_at=[12, 55])
    found = divide_time((0, 100), [Life(1, 5)], [(12, 30), (55, 80)], supply)
    assert found.ns == {
        "busy": 18 + 25,
        "start_up": 5,
        "lost": 0,
        "starved": 5 + 10,
        "hand_over": 2 + 15,
        "drained": 20,
    }
    assert found.starved == [(5, 10), (30, 40)]
    assert found.first_starved == 5


def test_what_another_replica_could_have_taken_is_no_want_of_batches() -> None:
    """Two are ready at 10; the other replica takes one at 10, this one the other only at 20."""
    supply = Supply(ready_at=[10, 10], begun_at=[10, 20])
    found = divide_time((0, 30), [Life(0, 0)], [(20, 30)], supply)
    assert (found.ns["starved"], found.ns["hand_over"]) == (10, 10)


def test_a_death_costs_from_the_last_answer_until_the_model_is_loaded_again() -> None:
    supply = Supply(ready_at=[0, 0], begun_at=[10, 60])
    found = divide_time((0, 100), [Life(0, 10), Life(40, 60)], [(10, 20), (60, 100)], supply)
    assert found.ns["lost"] == 20
    assert found.ns["start_up"] == 10 + 20
    assert found.ns["busy"] == 50


def test_one_that_has_gone_for_good_is_lost_to_the_end() -> None:
    supply = Supply(ready_at=[0], begun_at=[10])
    found = divide_time((0, 100), [Life(0, 10)], [(10, 20)], supply, gone=35)
    assert (found.ns["lost"], found.ns["drained"]) == (80, 0)


def test_a_part_that_left_prompts_was_not_drained() -> None:
    """Nothing is ready after 10, but more would have come."""
    stopped = Supply(ready_at=[10], begun_at=[10], unfinished=100)
    found = divide_time((0, 100), [Life(0, 0)], [(10, 20)], stopped)
    assert (found.ns["starved"], found.ns["drained"]) == (90, 0)


@given(
    span=st.tuples(MOMENTS, MOMENTS).map(sorted),
    lives=st.lists(st.tuples(MOMENTS, st.none() | MOMENTS), max_size=4),
    batches=st.lists(st.tuples(MOMENTS, MOMENTS), max_size=8),
    gone=st.none() | MOMENTS,
)
@settings(max_examples=300, deadline=None)
def test_busy_and_idle_are_the_whole_time(
    span: list[int],
    lives: list[tuple[int, int | None]],
    batches: list[tuple[int, int]],
    gone: int | None,
) -> None:
    """Whatever the journal says: also clocks that are a little off, and batches that overlap."""
    spans = [(a, a + b) for a, b in batches]
    supply = Supply([max(0, a - 3) for a, _ in spans], [a for a, _ in spans])
    known = [Life(*life) for life in sorted(lives, key=lambda life: life[0])]
    start, end = span
    found = divide_time((start, end), known, spans, supply, gone)
    assert sum(found.ns.values()) == end - start
    assert all(found.ns[cause] >= 0 for cause in CAUSES)
    assert sum(b - a for a, b in found.starved) == found.ns["starved"]


def test_overlap_counts_each_interval_by_itself() -> None:
    assert overlap_ns([(0, 10), (5, 25)], [(20, 30), (2, 8)]) == 6 + (3 + 5)
