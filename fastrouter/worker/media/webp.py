"""WebP, which libmtmd cannot decode: Pillow makes a BMP of it, if it is installed (fastrouter[webp]).

Never imports: worker.llama. Invariant: one file at a time, and only after its size was checked (picture_files.py).
"""

import io
import threading
from importlib.util import find_spec

_decoding = threading.Lock()  # a picture takes some times its pixels while it is decoded


def is_installed() -> bool:
    return find_spec("PIL") is not None


def to_bmp(file: bytes) -> bytes:
    """The first frame, without transparency, as libmtmd reads PNG. Raises ValueError."""
    from PIL import Image

    with _decoding:
        try:
            with Image.open(io.BytesIO(file), formats=["WEBP"]) as picture:
                found = io.BytesIO()
                picture.convert("RGB").save(found, "BMP")
        except Exception as problem:  # Pillow raises errors of many kinds for broken files
            raise ValueError("is a picture that cannot be decoded: its file is broken or cut short") from problem
    return found.getvalue()
