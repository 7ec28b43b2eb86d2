"""The one tree of errors. Each class has the HTTP status, type and code that a client sees.

Other errors (ctypes, OS, JSON) are turned into these where they first appear. Imports nothing of this package.
"""

from collections.abc import Iterable, Sequence
from typing import Any


class FastrouterError(Exception):
    """Base of all errors that a user may see. `extra` fields go into the JSON next to `message`."""

    status = 500
    type = "server_error"
    code: int | str | None = None  # None: the status is the code, as in llama-server
    retry_after_s: int | None = None

    def __init__(self, message: str, /, **extra: Any) -> None:
        message = message if message.isascii() else message.encode("utf-8", "replace").decode()  # names of files may hold any bytes
        super().__init__(message)
        self.message = message
        self.extra = extra

    def to_json(self) -> dict[str, Any]:
        """The `{"error": {...}}` object of OpenAI and llama-server."""
        code = self.status if self.code is None else self.code
        return {"error": {"code": code, "message": self.message, "type": self.type, **self.extra}}

    def to_wire(self) -> dict[str, Any]:
        """What a worker sends: enough for `from_wire` to raise the same error in the router."""
        kind = next((cls.__name__ for cls in type(self).__mro__ if cls.__name__ in _FROM_WIRE), "")
        return {"class": kind, "message": self.message, "extra": self.extra}


class InvalidRequest(FastrouterError):
    status = 400
    type = "invalid_request_error"


class ContextExceeded(InvalidRequest):
    type = "exceed_context_size_error"


class StreamStopped(InvalidRequest):
    """A client has stopped the generation, or no client reads its answer."""

    type = "cancelled_error"


class ModelNotFound(InvalidRequest):
    def __init__(self, model_id: str, hint: str = "") -> None:
        super().__init__(f"model '{model_id}' not found{hint}")


class ModelNotLoaded(InvalidRequest):
    def __init__(self, model_id: str) -> None:
        super().__init__("model is not loaded", model=model_id)


class DoesNotFit(InvalidRequest):
    """The model needs more memory than there is; trying again does not help."""

    type = "exceed_memory_error"

    def __init__(self, model_id: str, why: str, **figures: int | None) -> None:
        super().__init__(f"model '{model_id}' cannot be loaded: {why}", model=model_id, **figures)


class ModelCannot(InvalidRequest):
    """This model cannot do it, or not with its present options. Trying again does not help, so it has no 5xx status: clients repeat those
    requests."""

    type = "not_supported_error"


class CannotSee(ModelCannot):
    """A picture for a model without a projector, with llama-server's words."""

    def __init__(self) -> None:
        super().__init__("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj")


class CannotHear(ModelCannot):
    """Audio for a model without a projector that takes it, with llama-server's words."""

    def __init__(self) -> None:
        super().__init__("audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj")


class CannotWatch(ModelCannot):
    """A video for a model without a projector that takes pictures, with llama-server's words."""

    def __init__(self) -> None:
        super().__init__("video input is not supported - hint: if this is unexpected, you may need to provide the mmproj")


class InvalidApiKey(FastrouterError):
    status = 401
    type = "authentication_error"

    def __init__(self, message: str = "Invalid API Key") -> None:
        super().__init__(message)


class Forbidden(FastrouterError):
    status = 403
    type = "permission_error"


class FeatureDisabled(Forbidden):
    """A feature that no flag has turned on, with llama-server's status and type."""

    type = "feature_disabled"


class NotFound(FastrouterError):
    status = 404
    type = "not_found_error"


class MethodNotAllowed(FastrouterError):
    status = 405
    type = "invalid_request_error"

    def __init__(self, methods: Iterable[str]) -> None:
        methods = set(methods)
        super().__init__(f"this path accepts {', '.join(sorted(methods))}")
        self.allow = ", ".join(sorted({"OPTIONS", *methods, *(("HEAD",) if "GET" in methods else ())}))


class BodyTooLarge(FastrouterError):
    status = 413
    type = "invalid_request_error"

    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit} bytes, the limit of this path")


class UnsupportedMediaType(FastrouterError):
    status = 415
    type = "invalid_request_error"


class RateLimited(FastrouterError):
    """A key has as many requests running as it may."""

    status = 429
    type = "rate_limit_error"
    retry_after_s = 1


class NotSupported(FastrouterError):
    """An endpoint that a flag turns on, with llama-server's words and status."""

    status = 501
    type = "not_supported_error"


class Unavailable(FastrouterError):
    """Starting, stopping, or the queue is full."""

    status = 503
    type = "unavailable_error"
    retry_after_s = 1


class LoadFailed(FastrouterError):
    """A model's worker died or refused while it was loading; the message ends with the cause, `log` holds the last lines of the worker."""

    def __init__(self, model_id: str, cause: str, exit_code: int | None = None, log: Sequence[str] = ()) -> None:
        super().__init__(f"model name={model_id} failed to load: {cause}", log=list(log))
        self.cause = cause
        self.exit_code = exit_code


class ModelUnusable(LoadFailed):
    """It fails however often it is tried: first the model's file or options must change. A client that repeats the request gains
    nothing."""

    status = 400
    type = "invalid_model_error"


class LoadPostponed(LoadFailed):
    """There was not enough memory, or no process, for it now."""

    status = 503
    type = "unavailable_error"
    retry_after_s = 5


class WorkerDied(FastrouterError):
    """A worker died while it had a request; `log` holds its last lines."""

    status = 503
    code = "worker_died"
    retry_after_s: int | None = 1

    def __init__(self, message: str, log: Sequence[str] = ()) -> None:
        super().__init__(message, log=list(log))


class KillsWorkers(WorkerDied):
    """Two workers died with this request, and the second one did nothing else. It is refused for a while."""

    status = 422
    type = "invalid_request_error"
    retry_after_s = None

    def __init__(self, model_id: str, cause: str = "", log: Sequence[str] = ()) -> None:
        why = f"model {model_id} has crashed: {cause}; " if cause else ""
        super().__init__(f"{why}this request has ended two workers of model {model_id}, so it is refused for a minute; change it", log)


class ConfigError(FastrouterError):
    """A flag, environment variable or preset is wrong. At the start the program ends with exit code 1; a reload is refused with this
    error."""

    status = 400
    type = "invalid_config_error"


class ProtocolError(FastrouterError):
    """The other process broke the format of the wire or the ring. Its process is killed, ours continues."""


_FROM_WIRE = {cls.__name__: cls for cls in (FastrouterError, InvalidRequest, ContextExceeded, ModelCannot, NotSupported, Unavailable)}


def from_wire(error: dict[str, Any]) -> FastrouterError:
    """The error that a worker sent with `to_wire`. An unknown class becomes a plain server error."""
    cls = _FROM_WIRE.get(str(error.get("class")), FastrouterError)
    extra = error.get("extra")
    return cls(str(error.get("message", "worker error")), **(extra if isinstance(extra, dict) else {}))
