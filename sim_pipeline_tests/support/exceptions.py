"""Everything that an exception tells, for tests of what it must not."""

import traceback


def all_told(error: BaseException) -> str:
    """Return the traceback as logs show it, and each exception that hangs on it, shown or not."""
    told = ["".join(traceback.format_exception(error))]
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        one = pending.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            told += [str(one), repr(one), repr(one.args)]
            pending += [one.__cause__, one.__context__, getattr(one, "orig", None)]
    return "\n".join(told)
