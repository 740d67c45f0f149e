"""Where log lines go: LOG_FILE for every process, the console for the one in the foreground.

Dagster's instance (`dagster.yaml`) names `LogFileHandler`, so that each process of a run writes
the run's lines and events to the file. The lines of the loggers below `sim_pipeline` become
events of the run as well, and show in the UI.
"""

import logging
import sys

from concurrent_log_handler import ConcurrentRotatingFileHandler
from rich.console import Console
from rich.text import Text

from sim_pipeline.config import Settings, load_settings

_FORMAT = "%(asctime)s %(levelname)-8s %(process)d %(name)s: %(message)s"
_FILE_BYTES = 20_000_000
_FILES = 5
_STYLE = "console_style"

GOOD_NEWS = {_STYLE: "green"}
"""The `extra` of a record that the console is to set off."""


class LogFileHandler(ConcurrentRotatingFileHandler):
    """Appends to LOG_FILE from LOG_LEVEL on; any number of processes may do so at once.

    The file is rotated at 20 MB, under a lock, and five are kept.
    """

    def __init__(self) -> None:
        settings = load_settings()
        super().__init__(
            str(settings.log_file), maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8"
        )
        self.setLevel(settings.log_level)
        self.setFormatter(logging.Formatter(_FORMAT))


class ConsoleFormatter(logging.Formatter):
    """Lines for people: the time and, from WARNING on, the level. Colours on a terminal only.

    Rich knows whether stderr is one, and NO_COLOR.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self._console = Console(stderr=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a line of text."""
        line = super().format(record)
        style = getattr(record, _STYLE, "")
        if record.levelno >= logging.WARNING:
            time, _, message = line.partition(" ")
            line = f"{time} {record.levelname} {message}"
            style = "red" if record.levelno >= logging.ERROR else "yellow"
        with self._console.capture() as captured:
            self._console.print(Text(line, style), end="", soft_wrap=True)
        return captured.get()


def set_level(settings: Settings) -> logging.Logger:
    """Let this package's loggers pass what LOG_LEVEL allows; return the one above them all."""
    package = logging.getLogger("sim_pipeline")
    package.setLevel(settings.log_level)
    return package


def configure(settings: Settings) -> None:
    """Send this process's own log lines to LOG_FILE and, if CONSOLE_LOGGING, to stderr."""
    root = set_level(settings)
    file = LogFileHandler()
    # What another process writes to the file itself is passed on with this mark.
    file.addFilter(lambda record: not getattr(record, "console_only", False))
    root.addHandler(file)
    if settings.console_logging:
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(ConsoleFormatter())
        root.addHandler(console)
