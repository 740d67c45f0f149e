"""Draws the plots of realism.md into docs/img; run it as `python docs/realism.py`."""

from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import simulate

IMAGES = Path(__file__).parent / "img"
HOUR = 3_600
DAY = 24 * HOUR
TEN_MINUTES = 600
# Monday 2026-01-05T00:00:00Z [s since the Unix epoch].
MONDAY = 1_767_571_200
SEED = 42
RATE = 5.5
LAG_DAYS = 7
# Dense lines without antialiasing: the files are half as large.
DENSE = {"lw": 0.8, "aa": False}

Array = npt.NDArray[np.float64]


def fixed(profile: Profile) -> Profile:
    """Return ``profile`` with a constant number of machines and without bursts and shifts."""
    workload = replace(profile.workload, burst_sd=0, fast_burst_sd=0, heavy_share=0)
    return replace(
        profile,
        workload=workload,
        elasticity=1,
        capacity_sd=0,
        shifts_per_year=0,
        itl_exponent=1,
        itl_jitter=0.08,
    )


def month(profile: Profile, other: Profile) -> Figure:
    """Draw four weeks of hourly RPS and TPS of two profiles, side by side.

    Args:
        profile: the profile on the left.
        other: the profile on the right.
    """
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 4.5), sharex=True, sharey="row", layout="constrained"
    )
    hours = np.arange(4 * 168)
    titles = ("as it is", "constant machines, no bursts, no shifts")
    for column, one in enumerate((profile, other)):
        result = simulate(one, MONDAY // HOUR + hours, interval=HOUR, points=5, seed=SEED)
        axes[0, column].plot(hours / 24, result.rps.mean(axis=1), **DENSE)
        axes[1, column].plot(hours / 24, result.tps[:, 0], **DENSE)
        axes[0, column].set_title(f"{one.name}, {titles[column]}", fontsize="medium")
        axes[1, column].set_xlabel("day, from a Monday on")
    axes[0, 0].set_ylabel("RPS [1/s]")
    axes[1, 0].set_ylabel("TPS of one request [1/s]")
    axes[1, 0].set(yscale="log", xlim=(0, 28), xticks=range(0, 29, 7))
    axes[1, 0].yaxis.set_major_formatter("{x:g}")
    axes[1, 0].yaxis.set_minor_formatter("{x:g}")
    return figure


def counts(profile: Profile) -> Figure:
    """Draw the requests of an hour in 1 s, 10 s and 60 s, beside a renewal process.

    Args:
        profile: the endpoint; its cap is changed so that the mean rate is `RATE`.
    """
    figure, axes = plt.subplots(
        3, 2, figsize=(9, 5), sharex=True, sharey="row", layout="constrained"
    )
    slow = replace(profile, cap=RATE / profile.rho)
    minutes = (MONDAY + DAY + 10 * HOUR) // 60 + np.arange(60)
    ours = simulate(slow, minutes, interval=60, points=60, seed=SEED).rps.ravel()
    renewal = renewal_counts(float(ours.mean()), profile.workload.arrival_cv)
    for column, (title, seconds) in enumerate(
        ((f"{profile.name}", ours), ("renewal process of the same mean", renewal))
    ):
        for row, span in enumerate((1, 10, 60)):
            sums = seconds.reshape(-1, span).sum(axis=1)
            fano = sums.var(ddof=1) / sums.mean()
            axes[row, column].step(np.arange(sums.size) * span / 60, sums, where="post", **DENSE)
            axes[row, column].set_title(f"Fano factor {fano:.1f}", fontsize="small", loc="right")
            axes[row, 0].set_ylabel(f"in {span} s")
        axes[0, column].set_title(title, fontsize="medium", loc="left")
        axes[2, column].set_xlabel("minute")
    axes[2, 0].set(xlim=(0, 60), ylim=(0, None))
    return figure


def renewal_counts(rate: float, cv: float) -> Array:
    """Return the requests in each second of an hour of a Gamma renewal process, shape (3600,).

    Args:
        rate: requests per second.
        cv: coefficient of variation of the time between two requests.
    """
    shape = cv**-2
    gaps = np.random.default_rng(SEED).gamma(shape, 1 / (rate * shape), int(2 * rate * HOUR))
    second = np.cumsum(gaps).astype(int)
    return np.bincount(second[second < HOUR], minlength=HOUR).astype(float)


def autocorrelation(profile: Profile, other: Profile) -> Figure:
    """Draw the autocorrelation of hourly log TPS and of the log of the ten-minute rate.

    Args:
        profile: an endpoint.
        other: the endpoint to compare with.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
    for one, label in ((profile, "as it is"), (other, "constant machines, no bursts, no shifts")):
        for axis, spacing in zip(axes, (HOUR, TEN_MINUTES), strict=True):
            windows = (MONDAY + np.arange(0, 26 * 7 * DAY, spacing)) // spacing
            result = simulate(one, windows, interval=spacing, points=1, seed=SEED)
            values = result.tps if spacing == HOUR else result.rps
            lags = np.arange(LAG_DAYS * DAY // spacing + 1)
            axis.plot(lags * spacing / DAY, correlations(np.log(values[:, 0]), lags), lw=1)
            axis.lines[-1].set_label(label)
    for axis, title in zip(axes, ("log TPS, hourly", "log of the ten-minute rate"), strict=True):
        axis.set(title=title, xlabel="lag [days]", xlim=(0, LAG_DAYS), ylim=(-0.6, 1))
        axis.axhline(0, color="0.6", lw=0.5)
    axes[0].set_ylabel("autocorrelation")
    axes[0].legend(fontsize="small")
    return figure


def correlations(series: Array, lags: npt.NDArray[np.int64]) -> Array:
    """Return the autocorrelation of a series of shape (n,) at ``lags``, each less than n."""
    centred = series - series.mean()
    products = [centred[: centred.size - lag] @ centred[lag:] for lag in lags.tolist()]
    result: Array = np.array(products) / products[0]
    return result


def main() -> None:
    """Draw all plots."""
    mpl.use("Agg")
    IMAGES.mkdir(exist_ok=True)
    profile = MODELS["GPT-4o"]
    for name, figure in (
        ("realism_month", month(profile, fixed(profile))),
        ("realism_counts", counts(profile)),
        ("realism_autocorrelation", autocorrelation(profile, fixed(profile))),
    ):
        # Leave out matplotlib's version, so that an unchanged plot is an unchanged file.
        file = IMAGES / f"{name}.png"
        figure.savefig(file, dpi=80, metadata={"Software": None})
        print(f"Drew {file.relative_to(IMAGES.parents[1])}")


if __name__ == "__main__":
    main()
