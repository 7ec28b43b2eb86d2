"""Text files that a user wrote, read with a limit. Errors name the file."""

from pathlib import Path

from fastrouter.errors import ConfigError

MAX_TEXT_BYTES = 4 << 20


def read_text(path: Path, said: str) -> str:
    """A small UTF-8 file that a user named; `said` opens the ConfigError."""
    try:
        if not path.is_file():
            raise ConfigError(f"{said}: there is no such file")
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise ConfigError(f"{said}: is larger than {MAX_TEXT_BYTES >> 20} MiB")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{said}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{said}: is not UTF-8 at byte {error.start}") from None
