"""A short, always equal part of the fuzzing of nsys exports."""

import pytest
from fuzzing import run
from nsys_fuzz import case


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_damaged_export_is_analysed_or_refused(seed: int) -> None:
    ends = run(case, seed, None, cases=40)
    assert ends["failed"] == 0
    assert min(ends["refused"], ends["analysed"] + ends["told"]) >= 2
