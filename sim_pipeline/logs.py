"""Log handlers: LOG_FILE for every process, the console for the process in the foreground.

`dagster.yaml` names `LogFileHandler`, so that every process of a run writes the run's lines and
events to the file. Lines of the loggers below `sim_pipeline` become events of the run as well, and
the UI shows them.
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

HIGHLIGHT = {_STYLE: "green"}
"""The `extra` of a record that the console prints in green."""


class LogFileHandler(ConcurrentRotatingFileHandler):
    """Appends records of LOG_LEVEL and above to LOG_FILE, which several processes can share.

    It rotates the file at 20 MB under a lock, and keeps five old files.
    """

    def __init__(self) -> None:
        settings = load_settings()
        super().__init__(
            str(settings.log_file), maxBytes=_FILE_BYTES, backupCount=_FILES, encoding="utf-8"
        )
        self.setLevel(settings.log_level)
        self.setFormatter(logging.Formatter(_FORMAT))


class ConsoleFormatter(logging.Formatter):
    """Formats a record as time, level (from WARNING on) and message, in colour on a terminal.

    Rich detects whether stderr is a terminal, and respects NO_COLOR.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")
        self._console = Console(stderr=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text."""
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
    """Set this package's loggers to LOG_LEVEL and return their common parent."""
    package = logging.getLogger("sim_pipeline")
    package.setLevel(settings.log_level)
    return package


def configure(settings: Settings) -> None:
    """Log this process's records to LOG_FILE and, with CONSOLE_LOGGING, to stderr."""
    root = set_level(settings)
    file = LogFileHandler()
    # Relayed lines that their own process has written to the file carry this attribute.
    file.addFilter(lambda record: not getattr(record, "console_only", False))
    root.addHandler(file)
    if settings.console_logging:
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(ConsoleFormatter())
        root.addHandler(console)
