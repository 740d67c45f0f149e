"""Checks that a plain `assert` cannot make: waiting for a condition, searching an exception."""

import time
import traceback
from collections.abc import Callable


def wait_until(
    condition: Callable[[], bool], what: str = "the condition", seconds: float = 30
) -> None:
    """Return as soon as the condition holds; fail after `seconds`.

    Args:
        condition: checked every 10 ms.
        what: describes the condition in the failure message.
        seconds: the time limit.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        # The tests poll only here: for state that another process or a server does not announce.
        time.sleep(0.01)


def exception_text(error: BaseException) -> str:
    """Return everything an exception can reveal, to check that it contains no secret.

    That is the traceback as a log shows it, and the text, `repr` and arguments of the exception
    and of every exception linked to it (cause, context, `orig`).
    """
    texts = ["".join(traceback.format_exception(error))]
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            texts += [str(current), repr(current), repr(current.args)]
            pending += [current.__cause__, current.__context__, getattr(current, "orig", None)]
    return "\n".join(texts)
