"""Files that a user named: text with a size limit, and what to say when a file or folder does not exist."""

from pathlib import Path

from fastrouter.errors import ConfigError

MAX_TEXT_BYTES = 4 << 20


def read_text(path: Path, place: str) -> str:
    """A small UTF-8 file that a user named; the ConfigError begins with `place`."""
    try:
        if not path.is_file():
            raise ConfigError(f"{place}: {why_no_file(path)}")
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        if len(content) > MAX_TEXT_BYTES:
            raise ConfigError(f"{place}: is larger than {MAX_TEXT_BYTES >> 20} MiB")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{place}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{place}: is not UTF-8 at byte {error.start}") from None


def why_no_file(path: Path) -> str:
    """For a path that is not a regular file."""
    if path.is_dir():
        return "is a folder, not a file"
    return "is not a regular file" if path.exists() else "there is no such file" + _in_full(path)


def why_no_folder(path: Path) -> str:
    return "is a file, not a folder" if path.exists() else "there is no such folder" + _in_full(path)


def _in_full(path: Path) -> str:
    """The place where a relative path was looked up."""
    return "" if path.is_absolute() else f"; looked for {Path.cwd() / path}"
