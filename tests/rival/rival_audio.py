"""The requests with audio, and those with videos, of the table in rival_cases.py."""

import base64
from typing import Any

import numpy as np
from rival import GREEDY, Case
from tiny_audio import FLAC, MP3, audio_part, sound, wav
from tiny_projectors import image_part, picture, png
from tiny_video import avi

ONE, OTHER = wav(sound(1)), wav(sound(2, 0.7))
LONG = wav(sound(3, 65))
BOUNDARY = "of-a-form"
WORDS = "the cat is"


def of_audio(server: str) -> list[Case]:
    """For a model with a projector that takes audio."""

    def user(*parts: Any) -> dict[str, Any]:
        content = [audio_part(part) if isinstance(part, bytes) else part for part in parts]
        return {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]}

    def chat(name: str, *messages: dict[str, Any], n: int = 16, **more: Any) -> Case:
        return Case(server, name, "/v1/chat/completions", {"messages": list(messages), "max_tokens": n, **GREEDY, **more})

    def data(text: str) -> dict[str, Any]:
        return {"type": "input_audio", "input_audio": {"data": text}}

    turn = [user("the cat", ONE), {"role": "assistant", "content": "a dog"}, user("and one of", OTHER, "is red")]
    encoded = base64.b64encode(ONE).decode()
    stereo = np.repeat(sound(5, 0.5), 2)
    return [
        chat("chat without audio", {"role": "user", "content": WORDS}),
        chat("chat with audio", user(WORDS, ONE)),
        chat("chat with other audio", user(WORDS, OTHER)),
        chat("chat with audio, again", user(WORDS, OTHER)),
        chat("chat with audio first", user(ONE, WORDS)),
        chat("chat with only audio", user(ONE)),
        chat("chat with two audio files and text between", user("the", ONE, "and", OTHER, "two")),
        chat("chat with the same audio twice", user("the", ONE, ONE, "two")),
        chat("chat with long audio", user("the", LONG, "two")),
        chat("chat with audio that ends with its chunk", user("the", wav(sound(4, 30)), "two")),
        chat("chat with a MP3", user("the", audio_part(MP3, "mp3"), "two")),
        chat("chat with a FLAC", user("the", audio_part(FLAC, "flac"), "two")),
        chat("chat with another rate", user("the", wav(sound(5, 0.5, 44100), 44100), "two")),
        chat("chat with two channels", user("the", wav(stereo, num_channels=2), "two")),
        chat("chat with floats", user("the", wav((sound(6, 0.5) / np.float32(32768)).astype(np.float32), encoding=3), "two")),
        chat("chat with bytes", user("the", wav((sound(6, 0.5) // 256 + 128).astype(np.uint8)), "two")),
        chat("chat with a data URL", user(WORDS, data(f"data:audio/wav;base64,{encoded}"))),
        chat("chat with audio as a URL", user(WORDS, {"type": "input_audio", "input_audio": {"url": encoded}})),
        chat("chat with audio, streamed", user(WORDS, ONE), stream=True, stream_options={"include_usage": True}),
        chat("chat with a system message and audio", {"role": "system", "content": "you"}, user("the", "red cat", ONE)),
        chat("chat of two turns with audio, the first", *turn[:1]),
        chat("chat of two turns with audio", *turn),
        chat("chat with audio and a grammar", user("the cat", ONE), grammar='root ::= "dog" | "cat"'),
        chat("chat with audio and penalties", user("the cat", ONE), repeat_penalty=1.3, repeat_last_n=64),
        chat("chat with audio and a picture", user("the", ONE, image_part(png(picture(1))), "two")),
        chat("chat with broken audio", user("the", ONE[:30])),
        chat("chat with audio that is none", user("the", b"nonsense that is long enough")),
        chat("chat with a URL of another kind", user("the", data("data:text/plain;base64,YQ=="))),
        chat("chat with a file", user("the", data("file://a.wav"))),
        _form(server, "transcription", {}),
        _form(server, "transcription with a prompt", {"prompt": "the red cat"}),
        _form(server, "transcription with a language", {"language": "en"}),
        _form(server, "transcription of a long file", {"prompt": "the"}, LONG),
        _form(server, "transcription, streamed", {"stream": "true"}),
        _form(server, "transcription as text", {"response_format": "text"}),
        _form(server, "transcription as subtitles", {"response_format": "srt"}),
        _form(server, "transcription of nothing", {}, None),
        Case(server, "props", "/props"),
        Case(server, "models", "/v1/models"),
    ]


def of_videos(server: str) -> list[Case]:
    """For a model that sees, and a server with ffmpeg."""
    short, long = avi([picture(seed, 48, 32) for seed in range(3)]), avi([picture(seed % 8, 48, 32) for seed in range(24)])
    quick = avi([picture(seed % 8, 48, 32) for seed in range(30)], 10)

    def chat(name: str, *parts: Any, n: int = 16) -> Case:
        content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
        messages = [{"role": "user", "content": content}]
        return Case(server, name, "/v1/chat/completions", {"messages": messages, "max_tokens": n, **GREEDY})

    def video(content: bytes, kind: str = "video_url") -> dict[str, Any]:
        return {"type": kind, kind: {"url": f"data:video/avi;base64,{base64.b64encode(content).decode()}"}}

    return [
        chat("chat with a video", "the", video(short), "two"),
        chat("chat with a video of six seconds", "the", video(long), "two"),
        chat("chat with a video of ten frames a second", "the", video(quick, "input_video"), "two"),
        chat("chat with a video and audio", "the", video(short), audio_part(ONE), "two"),
        chat("chat with a broken video", "the", video(b"nonsense that is no video")),
    ]


def _form(server: str, name: str, fields: dict[str, str], file: bytes | None = ONE) -> Case:
    body = form({**fields, "max_tokens": "12", "temperature": "0"}, file)
    return Case(server, name, "/v1/audio/transcriptions", body, content_type=f"multipart/form-data; boundary={BOUNDARY}")


def form(fields: dict[str, str], file: bytes | None, name: str = "file", boundary: str = BOUNDARY) -> bytes:
    parts = [f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
    if file is not None:
        head = f'Content-Disposition: form-data; name="{name}"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
        parts.append(head.encode() + file)
    return b"".join(b"--%b\r\n%b\r\n" % (boundary.encode(), part) for part in parts) + b"--%b--\r\n" % boundary.encode()
