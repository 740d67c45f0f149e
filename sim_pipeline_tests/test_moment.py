"""What a person may write as a time."""

from datetime import UTC, datetime

import pytest

from sim_pipeline.moment import moment


@pytest.mark.parametrize(
    "text", ["2026-11-24T05:00:00Z", "2026-11-24T07:00+02:00", "20261124T050000.000Z"]
)
def test_a_time_with_a_zone_is_the_instant_it_names(text: str) -> None:
    assert moment(text) == datetime(2026, 11, 24, 5, tzinfo=UTC)


def test_an_empty_text_is_no_bound() -> None:
    assert moment("") is None


@pytest.mark.parametrize("text", ["2026-11-24", "2026-11-24T05:00:00", "24.11.2026", "now", " "])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*' is no time with a zone: allowed is an ISO 8601"):
        moment(text)
