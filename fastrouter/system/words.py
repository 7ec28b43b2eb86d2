"""Times, sizes and lists in words."""

from datetime import UTC, datetime


def iso_time(seconds: float) -> str:
    """ISO 8601 with the zone, of seconds since 1970."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="milliseconds")


def utc_time(seconds: float) -> str:
    """The same in UTC, in whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def size_text(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def in_words(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB" if num_bytes >= 1 << 30 else f"{num_bytes / (1 << 20):.1f} MiB"
