"""What a benchmark tool measured, in one form for all tools.

`formats` reads the tools' files into this form.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self

import numpy as np

LEVELS: Final = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
"""The levels of the quantiles that are computed from values of single requests."""

# Medians outside of these limits [s] have the wrong unit, rather than being so fast or slow.
_POSSIBLE_MEDIANS: Final = {"ttft": (1e-4, 3600.0), "itl": (1e-6, 60.0), "e2e": (1e-4, 36_000.0)}

# How far the time per token may be from (e2e - TTFT) / (output tokens - 1), all of mean values.
_DISAGREEMENT: Final = 1.5


class MeasurementError(ValueError):
    """A file cannot be used. The message names the file, the field, its value and what is allowed.

    It is one line.
    """


@dataclass(frozen=True)
class Distribution:
    """The distribution of a quantity over requests.

    Attributes:
        quantiles: value by level in (0, 1), in the order of the levels; may be empty.
        mean: None if unknown.
        count: number of requests behind it; None if unknown.
        samples: the value of each request, in the order of the file; empty if the file has none.
    """

    quantiles: dict[float, float]
    mean: float | None = None
    count: int | None = None
    samples: tuple[float, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, samples: Iterable[float | None]) -> Self | None:
        """Return the distribution of ``samples`` that are not None, or None if there are none."""
        values = tuple(sample for sample in samples if sample is not None)
        if not values:
            return None
        at_levels = np.quantile(values, LEVELS).tolist()
        quantiles = dict(zip(LEVELS, at_levels, strict=True))
        return cls(quantiles, float(np.mean(values)), len(values), values)

    def reciprocal(self) -> Self | None:
        """Return the distribution of 1 / value, without zeros; None if nothing is left.

        Its mean is unknown, except from samples: it is not the reciprocal of the mean.
        """
        if self.samples:
            return self.of(1 / value for value in self.samples if value > 0)
        quantiles = {
            round(1 - level, 9): 1 / value
            for level, value in reversed(self.quantiles.items())
            if value > 0
        }
        return replace(self, quantiles=quantiles, mean=None) if quantiles else None

    @property
    def middle(self) -> float | None:
        """The median, else the mean, else None."""
        return self.quantiles.get(0.5, self.mean)


@dataclass(frozen=True, kw_only=True)
class LoadPoint:
    """What a tool measured at one load. Failed requests are in no distribution.

    Attributes:
        source: the file as it was named, and the load in it if the file has several.
        tool: the tool and, if it has several, the kind of its file.
        version: the version that the file states, of the tool or of its format.
        completed: number of completed requests; None if unknown.
        failed: number of failed, incomplete and cancelled requests; None if unknown.
        duration_s: length of the measurement [s].
        rate: completed requests per second: as measured, else ``completed`` by ``duration_s``, else
            ``concurrency`` by the mean end-to-end latency.
        concurrency: mean number of requests in flight: ``rate`` times the mean end-to-end latency,
            else as measured, else ``concurrency_limit``.
        concurrency_limit: the number of requests in flight that the tool was told to keep or not
            to exceed.
        input_tokens: tokens of the prompt of a request.
        output_tokens: tokens of the answer to a request.
        ttft: time to first token [s].
        itl: mean time between the tokens of one request, [s]: (e2e - TTFT) / (output tokens - 1).
            vLLM names it TPOT.
        tps: tokens per second of one request after its first token, 1 / ``itl``. Requests with
            fewer than two output tokens have neither.
        e2e: end-to-end latency [s].
        notes: sentences about what limits the use of the values.
    """

    source: str
    tool: str
    version: str | None = None
    completed: int | None = None
    failed: int | None = None
    duration_s: float | None = None
    rate: float | None = None
    concurrency: float | None = None
    concurrency_limit: float | None = None
    input_tokens: Distribution | None = None
    output_tokens: Distribution | None = None
    ttft: Distribution | None = None
    itl: Distribution | None = None
    tps: Distribution | None = None
    e2e: Distribution | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One completed request. Times in seconds; None means that the file does not say.

    Attributes:
        start_s: when it was sent, from any origin.
    """

    ttft: float | None = None
    e2e: float | None = None
    itl: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    start_s: float | None = None

    @property
    def time_per_token(self) -> float | None:
        """``itl``, else computed from the other fields; None if that is impossible [s]."""
        if self.itl is not None:
            return self.itl
        if self.ttft is None or self.e2e is None or (self.output_tokens or 0) <= 1:
            return None
        return (self.e2e - self.ttft) / ((self.output_tokens or 0) - 1)


def from_requests(point: LoadPoint, requests: Sequence[Request]) -> LoadPoint:
    """Return ``point`` with the distributions of ``requests``, completed as by `complete`.

    The duration is from the first start to the last end, unless ``point`` has one.

    Raises:
        MeasurementError: there are no requests, or see `complete`.
    """
    if not requests:
        raise MeasurementError(f"{point.source}: completed requests are 0: must be 1 or more")
    spans = [(r.start_s, r.start_s + r.e2e) for r in requests if r.start_s is not None and r.e2e]
    duration_s = max(end for _, end in spans) - min(start for start, _ in spans) if spans else None
    return complete(
        replace(
            point,
            completed=len(requests),
            duration_s=duration_s if point.duration_s is None else point.duration_s,
            input_tokens=Distribution.of(r.input_tokens for r in requests),
            output_tokens=Distribution.of(r.output_tokens for r in requests),
            ttft=Distribution.of(r.ttft for r in requests),
            itl=Distribution.of(itl for r in requests if (itl := r.time_per_token) and itl > 0),
            e2e=Distribution.of(r.e2e for r in requests),
        )
    )


def complete(point: LoadPoint) -> LoadPoint:
    """Return ``point`` with what follows from its fields: TPS, rate, duration and concurrency.

    Raises:
        MeasurementError: no request completed, there is neither TTFT nor TPS, or a median can only
            have the wrong unit.
    """
    if point.completed == 0:
        raise MeasurementError(f"{point.source}: completed requests are 0: must be 1 or more")
    tps = point.tps or (point.itl.reciprocal() if point.itl else None)
    itl = point.itl or (point.tps.reciprocal() if point.tps else None)
    if point.ttft is None and tps is None:
        raise MeasurementError(
            f"{point.source}: has neither a time to first token nor tokens per second: "
            "measure with streaming"
        )
    point = replace(point, tps=tps, itl=itl)
    _check_medians(point)
    rate, duration_s = point.rate, point.duration_s
    if rate is None and point.completed and duration_s:
        rate = point.completed / duration_s
    latency = point.e2e.mean if point.e2e else _latency_from_parts(point)
    if rate is None and point.concurrency and latency:
        rate = point.concurrency / latency
    if duration_s is None and point.completed and rate:
        duration_s = point.completed / rate
    concurrency = rate * latency if rate is not None and latency is not None else point.concurrency
    return replace(
        point,
        rate=rate,
        duration_s=duration_s,
        concurrency=point.concurrency_limit if concurrency is None else concurrency,
        notes=tuple(dict.fromkeys((*point.notes, *_disagreement(point)))),
    )


def _means(point: LoadPoint) -> tuple[float | None, float | None, float | None]:
    """Return the mean TTFT [s], the mean time per token [s] and the mean number of intervals."""
    output = point.output_tokens.mean if point.output_tokens else None
    return (
        point.ttft.mean if point.ttft else None,
        point.itl.mean if point.itl else None,
        None if output is None or output <= 1 else output - 1,
    )


def _latency_from_parts(point: LoadPoint) -> float | None:
    ttft, itl, intervals = _means(point)
    if ttft is None or itl is None or intervals is None:
        return None
    return ttft + itl * intervals


def _disagreement(point: LoadPoint) -> list[str]:
    """Return a note if the time per token does not fit the latency, else nothing."""
    ttft, itl, intervals = _means(point)
    latency = point.e2e.mean if point.e2e else None
    if not itl or ttft is None or latency is None or not intervals or latency <= ttft:
        return []
    expected = (latency - ttft) / intervals
    if 1 / _DISAGREEMENT <= itl / expected <= _DISAGREEMENT:
        return []
    note = (
        f"The mean time per token is {itl:.3g} s, but latency, TTFT and output tokens give "
        f"{expected:.3g} s; the tool may count tokens differently."
    )
    return [note]


def _check_medians(point: LoadPoint) -> None:
    for name, (low, high) in _POSSIBLE_MEDIANS.items():
        distribution: Distribution | None = getattr(point, name)
        middle = distribution.middle if distribution else None
        if middle is not None and not low <= middle <= high:
            raise MeasurementError(
                f"{point.source}: the median {name} is {middle:g} s: must be {low:g} to {high:g} s"
                "; check the unit"
            )
