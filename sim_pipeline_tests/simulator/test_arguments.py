"""Invalid arguments raise an error with name, value and allowed values."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sim_pipeline.simulator.arguments import Range, check_fields, check_windows
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.fingerprint import fingerprints
from sim_pipeline.simulator.simulation import simulate

GOOD: dict[str, Any] = {"windows": [0, 1], "interval": 3600, "points": 5, "seed": 42}


@pytest.mark.parametrize("function", [simulate, fingerprints])
@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("interval", 0, "an integer in [1, 604800]"),
        ("interval", 604_801, "an integer in [1, 604800]"),
        ("interval", 60.0, "an integer in [1, 604800]"),
        ("points", 0, "an integer in [1, 10000]"),
        ("points", 10_001, "an integer in [1, 10000]"),
        ("points", True, "an integer in [1, 10000]"),
        ("seed", -1, "an integer >= 0"),
        ("seed", math.nan, "an integer >= 0"),
        ("windows", np.zeros((2, 2), dtype=np.int64), "one dimension"),
        ("windows", np.array([0.0, 1.0]), "integers"),
        ("windows", [math.nan], "integers"),
        ("windows", [-1], "in [0, 2559623]"),
        ("windows", [2_559_624], "in [0, 2559623]"),
        ("windows", np.array([2**64 - 1], dtype=np.uint64), "in [0, 2559623]"),
    ],
)
def test_bad_argument_is_named(
    function: Callable[..., object], name: str, value: object, allowed: str
) -> None:
    arguments = GOOD | {name: value}
    windows = arguments.pop("windows")
    with pytest.raises(ValueError, match=rf"^{name}\b.*{re.escape(allowed)}"):
        function(MODELS["GPT-4o"], windows, **arguments)


def test_one_error_names_all_bad_fields() -> None:
    ranges = {"a": Range(0, 1), "b": Range(0, 1), "c": Range(0, 1, low_included=False)}
    with pytest.raises(ValueError, match=r"^a is 2, .* \[0, 1\]; c is 0, .* \(0, 1\]$"):
        check_fields({"a": 2, "b": 1, "c": 0}, ranges)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None])
def test_ranges_allow_only_finite_numbers(value: object) -> None:
    assert not Range(-1e300, None).allows(value)
    assert not Range(-1e300, 1e300).allows(value)


def test_windows_become_int64() -> None:
    for given in ([3, 1], (3, 1), np.array([3, 1], dtype=np.uint8), np.array([3, 0, 1])[::2]):
        array = check_windows(given, 60)
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
        assert array.tolist() == [3, 1]


def test_empty_windows_are_allowed() -> None:
    assert check_windows([], 60).shape == (0,)
