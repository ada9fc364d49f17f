"""How far a worker's clock is from the dispatcher's."""

import time
from typing import Any

TRIES = 5


def measure_clock(client: Any, address: str) -> dict[str, int | None]:
    """The worker's clock less this one's, by the quickest of some questions, and its bound.

    A question takes from t0 to t1 here and is answered somewhere between: the answer less the
    middle is off by no more than half of that time.
    """
    best: tuple[int, int] | None = None
    for _ in range(TRIES):
        t0 = time.time_ns()
        found = client.run(time.time_ns, workers=[address], on_error="return").get(address)
        t1 = time.time_ns()
        if isinstance(found, int) and (best is None or t1 - t0 < 2 * best[1]):
            best = found - (t0 + t1) // 2, (t1 - t0) // 2
    offset, bound = best or (None, None)
    return {"clock_offset_ns": offset, "clock_bound_ns": bound}
