"""Draws the figures of simulator.md into docs/img; run it as `python docs/plots.py`."""

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from sim_pipeline.simulator.calibration import calibrated, prefill_utilisation
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.profiles import Incident, Workload
from sim_pipeline.simulator.requests import RELAXATION_TIMES
from sim_pipeline.simulator.simulation import simulate

IMAGES = Path(__file__).parent / "img"
HOUR = 3600
# Monday 2026-01-05T00:00:00Z, counted in hours.
MONDAY = 1_767_571_200 // HOUR
SEED = 42


def week() -> Figure:
    """Draw a week of three models, by hour, with a configured incident."""
    figure, axes = plt.subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    hours = np.arange(168)
    noon = (MONDAY + 2 * 24 + 12) * HOUR
    for name in ("Gemini-1.5-Flash", "GPT-4o", "Llama-3.1-405B"):
        profile = MODELS[name]
        if name == "GPT-4o":
            profile = replace(profile, incidents=(Incident(noon, noon + 3 * HOUR, 0.5),))
        result = simulate(profile, MONDAY + hours, interval=HOUR, points=60, seed=SEED)
        days = hours / 24
        axes[0].plot(days, result.rps.mean(axis=1), label=name)
        axes[1].plot(days, np.median(result.tps, axis=1), label=name)
        axes[2].plot(days, np.median(result.ttft, axis=1), label=name)
    for axis, label in zip(axes, ("RPS [1/s]", "TPS [1/s]", "TTFT [s]"), strict=True):
        axis.set_ylabel(label)
        axis.axvspan(2.5, 2.625, color="0.85")
        axis.set_xlim(0, 7)
    axes[1].set_yscale("log")
    axes[2].set_yscale("log")
    axes[0].legend(loc="upper right")
    axes[2].set_xticks(np.arange(7) + 0.5, ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
    return figure


def load_law() -> Figure:
    """Draw the mean ITL of hours by their utilisation, and its closed form.

    The number of machines is constant and the season strong, so that every utilisation occurs.
    """
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in ("Gemini-1.5-Flash", "GPT-4o", "Llama-3.1-405B"):
        profile = replace(
            MODELS[name],
            elasticity=1.0,
            shifts_per_year=0.0,
            workload=Workload(daily_amplitude=1.0, fast_burst_sd=0.0),
        )
        result = simulate(profile, MONDAY + np.arange(168), interval=HOUR, points=300, seed=SEED)
        hours = np.mean(1e3 / result.tps, axis=1)
        (dots,) = axis.plot(result.utilisation, hours, ".", ms=4, label=name)
        loads = np.linspace(0.02, 0.9, 100)
        times = calibrated(profile)
        law = 1e3 * times.itl(times.concurrency(loads))
        axis.plot(loads, law, color=dots.get_color(), lw=1)
    axis.set_yscale("log")
    axis.set_xlabel("utilisation rho")
    axis.set_ylabel("mean ITL [ms]; line: itl0 + kappa c^g")
    axis.legend()
    return figure


def ttft() -> Figure:
    """Draw the distribution of TTFT with all machines, and with fewer."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for left in (1.0, 0.7, 0.5):
        profile = replace(MODELS["GPT-4o"], incidents=(Incident(0.0, 1e10, left),))
        result = simulate(profile, MONDAY + np.arange(1_000), interval=HOUR, points=20, seed=SEED)
        times = np.sort(result.ttft.ravel())
        label = f"{left:.0%} of the machines, rho {result.utilisation.mean():.2f}"
        axis.plot(times, 1.0 - np.arange(times.size) / times.size, label=label)
    axis.axvline(MODELS["GPT-4o"].ttft_ref, color="0.6", lw=1, label="published median")
    axis.set(xscale="log", yscale="log", ylim=(1e-4, 1))
    axis.set_xlabel("TTFT of GPT-4o [s]")
    axis.set_ylabel("share of requests above")
    axis.legend()
    return figure


def history() -> Figure:
    """Draw the share of the stationary mean wait that a history of a given length misses."""
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    generator = np.random.default_rng(SEED)
    multiples = np.array([1, 1.5, 2, 3, 4, 5, 6, 8, 10])
    for cv in (1.1, 3.0):
        for load in (0.45, 0.75, 0.9):
            workload = replace(Workload(), arrival_cv=cv)
            prompts = workload.input_lengths
            r = float(prefill_utilisation(MODELS["GPT-4o"], np.array(load)))
            relaxation = (cv**2 + r**2 * prompts.squared_cv) / (1 - r) ** 2
            steps = np.maximum((multiples * relaxation).astype(int), 1)
            longest = int(24 * relaxation)
            waits = np.zeros(steps.size)
            full = 0.0
            for _ in range(8):
                shape = (2_000_000 // longest, longest)
                services = prompts.from_normal(generator.standard_normal(shape))
                gaps = generator.standard_gamma(cv**-2, shape) * cv**2
                walk = np.cumsum(services * (r / prompts.mean) - gaps, axis=1)
                highest = np.maximum(np.maximum.accumulate(walk, axis=1), 0.0)
                waits += highest[:, steps - 1].mean(axis=0)
                full += float(highest[:, -1].mean())
            label = f"cv {cv}, rho {load}: {relaxation:.0f} arrivals"
            axis.plot(multiples, np.maximum(1.0 - waits / full, 1e-6), "o-", ms=3, label=label)
    axis.axvline(RELAXATION_TIMES, color="0.6", lw=1)
    axis.axhline(1e-3, color="0.6", lw=1)
    axis.set(yscale="log", ylim=(1e-5, 1))
    axis.set_xlabel("history [relaxation times]")
    axis.set_ylabel("missing from the mean wait")
    axis.legend(fontsize="small", title="relaxation time", loc="lower left")
    return figure


def main() -> None:
    """Draw all figures."""
    mpl.use("Agg")
    IMAGES.mkdir(exist_ok=True)
    for draw in (week, load_law, ttft, history):
        # Leave out matplotlib's version, so that an unchanged figure is an unchanged file.
        file = IMAGES / f"{draw.__name__}.png"
        draw().savefig(file, dpi=110, metadata={"Software": None})
        print(f"Drew {file.relative_to(IMAGES.parents[1])}")


if __name__ == "__main__":
    main()
