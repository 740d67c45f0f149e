"""Fingerprints differ exactly where simulated numbers may differ."""

from dataclasses import fields, replace
from datetime import date
from typing import Any

import numpy as np
import pytest

from sim_pipeline.simulator import fingerprint
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.fingerprint import fingerprints
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import Incident, Profile, Slo, Thinking, Workload

PROFILE = MODELS["GPT-4o"]
RUN: dict[str, Any] = {"interval": 3600, "points": 5, "seed": 42}
OTHER: dict[str, Any] = {
    "name": "GPT-4",
    "ttft_ref": 0.5,
    "tps_ref": 80,
    "cap": 21,
    "rho": 0.5,
    "batch_limit": 128,
    "source": "elsewhere",
    "creator": "someone",
    "measured": date(2024, 7, 1),
    "released": date(2024, 5, 14),
    "retired": date(2026, 3, 31),
    "workload": Workload(drift_sd=0.2),
    "slo": Slo(ttft=1.0),
    "thinking": Thinking(TokenLengths(6.0, 0.8, 1, 20_000)),
    "incidents": (Incident(0.0, 10.0, 0.5),),
    "random_incidents": False,
    "elasticity": 1,
    "capacity_sd": 0.2,
    "shifts_per_year": 4,
    "shift_sd": 0.1,
    "creator_share": 0.5,
    "prefill_share": 0.41,
    "prefill_per_token": 1e-5,
    "itl_exponent": 0.7,
    "ttft_jitter": 0.2,
    "itl_jitter": 0.1,
    "failure_rate": 0.01,
    "spells_per_month": 10,
    "spell_failures": 0.2,
    "slow_share": 0.05,
    "slow_median": 5.0,
    "slow_log_sd": 0.6,
}
OTHER_WORKLOAD: dict[str, Any] = {
    "input_lengths": TokenLengths(6.63, 0.98, 1, 8000),
    "output_lengths": TokenLengths(5.02, 0.87, 2, 2048),
    "prefix_reuse": 0.5,
    "arrival_cv": 1.2,
    "peak_hour": 13,
    "daily_amplitude": 0.3,
    "half_daily_amplitude": 0.1,
    "weekend_factor": 0.6,
    "drift_sd": 0.2,
    "burst_sd": 0.2,
    "fast_burst_sd": 0.2,
    "heavy_share": 0.1,
    "heavy_clients": 4,
    "slo": Slo(ttft=1.0),
    "name": "code",
}


def test_fingerprint_is_stable() -> None:
    assert fingerprints(PROFILE, [0, 490_000], **RUN) == [
        "205bda2c10ee35a1372d309692d4fda2",
        "59806d742c1701b92e04a73257cd6838",
    ]


@pytest.mark.parametrize("field", [field.name for field in fields(Profile)])
def test_every_field_but_source_and_slo_counts(field: str) -> None:
    assert OTHER[field] != getattr(PROFILE, field)
    changed = replace(PROFILE, **{field: OTHER[field]})
    same = fingerprints(changed, [0], **RUN) == fingerprints(PROFILE, [0], **RUN)
    assert same == (field in {"source", "slo"})


@pytest.mark.parametrize("field", [field.name for field in fields(Workload)])
def test_every_field_of_workload_but_slo_and_name_counts(field: str) -> None:
    assert OTHER_WORKLOAD[field] != getattr(PROFILE.workload, field)
    changed = replace(PROFILE, workload=replace(PROFILE.workload, **{field: OTHER_WORKLOAD[field]}))
    same = fingerprints(changed, [0], **RUN) == fingerprints(PROFILE, [0], **RUN)
    assert same == (field in {"slo", "name"})


def test_every_field_of_thinking_counts() -> None:
    usual = Thinking(TokenLengths(6.0, 0.8, 1, 20_000))
    every = [
        usual,
        replace(usual, tokens=TokenLengths(6.0, 0.9, 1, 20_000)),
        replace(usual, share=0.5),
        replace(usual, visible=True),
    ]
    digests = {
        tuple(fingerprints(replace(PROFILE, thinking=thinking), [0], **RUN)) for thinking in every
    }
    assert len(digests) == len(every)


def test_each_date_counts_as_itself() -> None:
    day = date(2026, 3, 31)
    dated = [
        replace(PROFILE, measured=day),
        replace(PROFILE, released=day),
        replace(PROFILE, retired=day),
        replace(PROFILE, measured=date(2026, 4, 1)),
    ]
    assert len({tuple(fingerprints(profile, [0], **RUN)) for profile in dated}) == 4


def test_run_settings_and_version_count(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = [fingerprints(PROFILE, [3], **RUN)]
    digests += [fingerprints(PROFILE, [3], **RUN | {name: 7}) for name in RUN]
    digests += [fingerprints(PROFILE, [4], **RUN)]
    monkeypatch.setattr(fingerprint, "SIMULATOR_VERSION", fingerprint.SIMULATOR_VERSION + 1)
    digests += [fingerprints(PROFILE, [3], **RUN)]
    assert len({tuple(digest) for digest in digests}) == len(digests)


def test_incident_counts_in_overlapping_windows() -> None:
    windows = np.arange(10)
    usual = fingerprints(PROFILE, windows, **RUN)
    # From the last second of window 2 up to the start of window 5, which is excluded.
    incident = Incident(3 * 3600 - 1, 5 * 3600, 0.5)
    during = fingerprints(replace(PROFILE, incidents=(incident,)), windows, **RUN)
    changed = [k for k in windows.tolist() if usual[k] != during[k]]
    assert changed == [2, 3, 4]


def test_incident_order_and_int_type_do_not_count() -> None:
    one, two = Incident(0, 5_000, 0.5), Incident(100, 9_000, 0.4)
    same_one = Incident(0.0, 5_000.0, 0.5)
    first = replace(PROFILE, cap=20, incidents=(one, two, one))
    second = replace(PROFILE, cap=20.0, incidents=(two, same_one))
    assert fingerprints(first, [0, 1, 2], **RUN) == fingerprints(second, [0, 1, 2], **RUN)


def test_fingerprint_is_independent_of_range_and_order() -> None:
    incident = Incident(4 * 3600, 6 * 3600, 0.5)
    profile = replace(PROFILE, incidents=(incident,))
    whole = fingerprints(profile, np.arange(10), **RUN)
    assert fingerprints(profile, [7, 5, 2], **RUN) == [whole[7], whole[5], whole[2]]
    assert fingerprints(profile, [], **RUN) == []
