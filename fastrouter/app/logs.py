"""The router's own log: lines for people, or JSON for programs. Never imports: supervisor, worker, http, api.

A call may pass `extra={"event": ..., "model": ..., ...}`; JSON shows those fields, text leaves them out. Invariant: a record without a
traceback is one line, whatever its message contains. A log that cannot be written, or has no reader, never delays the router.
"""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast

import orjson

from fastrouter.config.config import Config
from fastrouter.errors import ConfigError
from fastrouter.system.line_sink import FLUSH_S, Descriptor, File, LineSink
from fastrouter.system.words import iso_time

_LEVELS = {0: logging.CRITICAL + 1, 1: logging.ERROR, 2: logging.WARNING, 3: logging.INFO}  # by llama-server's verbosity; above: all
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_DIM, _YELLOW, _RED, _PLAIN = "\x1b[2m", "\x1b[33m", "\x1b[31m", "\x1b[0m"

log = logging.getLogger("fastrouter")
_sinks: list[LineSink] = []  # standard output, standard error, the log file


@contextlib.contextmanager
def speaking(config: Config) -> Iterator[None]:
    """Inside it, printing and logging never wait: see line_sink.py. Raises ConfigError."""
    saved = sys.stdout, sys.stderr
    _sinks[:] = [_open_sink(Descriptor(1)), _open_sink(Descriptor(2))]
    sys.stdout, sys.stderr = cast(list[TextIO], _sinks)
    root, handler = logging.getLogger(), None
    try:
        handler = _make_handler(config)
        root.addHandler(handler)
        yield
    finally:
        if handler is not None:
            root.removeHandler(handler)
        finish()
        sys.stdout, sys.stderr = saved


def finish(timeout_s: float = FLUSH_S) -> None:
    """The last lines are written if their reader takes them. Idempotent."""
    deadline = time.monotonic() + timeout_s
    for sink in _sinks:
        sink.finish(max(0.0, deadline - time.monotonic()))


def _make_handler(config: Config) -> logging.Handler:
    log.setLevel(_LEVELS.get(config.verbosity, logging.DEBUG))
    if config.log_disable:
        log.setLevel(_LEVELS[0])
        return logging.NullHandler()
    sink = _open_file(config.log_file) if config.log_file else _sinks[1]
    handler = logging.StreamHandler(sink)
    if config.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        colors = _wants_colors(config.log_colors, sink)
        handler.setFormatter(TextFormatter(has_time=config.log_timestamps, has_level=config.log_prefix, colors=colors))
    return handler


def announce(config: Config, text: str, **fields: Any) -> None:
    """What a user reads on standard output; programs that read JSON find it in the log."""
    if config.log_format == "json":
        log.info("%s", text, extra=fields)
    else:
        print(text, flush=True)


# ---------------------------------------------------------------- where lines go


def _open_file(path: str) -> LineSink:
    def complain(error: OSError) -> None:
        sys.stderr.write(f"fastrouter: the log cannot be written to {path}: {error.strerror or error}\n")

    try:
        sink = _open_sink(File(path), complain)
    except OSError as error:
        raise ConfigError(f"--log-file {path}: {error.strerror or error}") from None
    _sinks.append(sink)
    return sink


def _open_sink(target: Descriptor | File, on_failure: Callable[[OSError], None] = lambda error: None) -> LineSink:
    """The default does nothing: the reader has gone, and there is no other place to report it."""
    return LineSink(target, on_failure, _report_dropped)


def _report_dropped(num_lines: int) -> None:
    extra = {"event": "log_dropped", "num_lines": num_lines}
    log.warning("%d lines of output were lost: they could not be written in time", num_lines, extra=extra)


def _wants_colors(choice: str, stream: LineSink) -> bool:
    """auto: on a terminal, unless NO_COLOR (no-color.org) is set."""
    if choice != "auto":
        return choice == "on"
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


# ---------------------------------------------------------------- what lines look like


def _one_line(text: str) -> str:
    """Characters that a terminal would obey, or show as a new line, are written as escapes."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


class TextFormatter(logging.Formatter):
    """`20:14:03 coder: loaded in 212 ms (5.1 GB)`; the level is shown only when it matters."""

    def __init__(self, *, has_time: bool = True, has_level: bool = True, colors: bool = False) -> None:
        super().__init__()
        self._has_time = has_time
        self._has_level = has_level
        self._colors = colors

    def format(self, record: logging.LogRecord) -> str:
        parts = [self._paint(_DIM, time.strftime("%H:%M:%S", time.localtime(record.created)))] if self._has_time else []
        if self._has_level and record.levelno >= logging.WARNING:
            parts.append(self._paint(_RED if record.levelno >= logging.ERROR else _YELLOW, f"{record.levelname.lower()}:"))
        message = _one_line(record.getMessage())
        parts.append(self._paint(_DIM, message) if record.levelno < logging.INFO else message)
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line

    def _paint(self, color: str, text: str) -> str:
        return f"{color}{text}{_PLAIN}" if self._colors else text


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, message, the other fields of the call, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"time": iso_time(record.created), "level": record.levelname.lower()}
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
        fields["message"] = record.getMessage()
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(fields, default=str).decode()
        except TypeError:  # a path that is not UTF-8
            plain = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in fields.items()}
            return orjson.dumps(plain).decode()
