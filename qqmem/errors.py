"""Every error that a person may be shown; anything else that escapes is a bug and gets a traceback.

QqmemError
├── SettingsError        the settings file, the environment or a flag is wrong
├── ModelError           a model cannot be found, fetched or loaded
│   └── ReleaseError     a trained release is torn, or of another model
├── TrainingError        a training run has failed
├── DatabaseError        the database cannot be opened, or is newer than this program
├── RequestError         what a client asked for cannot be done
│   ├── InvalidRequest   malformed or out of range
│   ├── Unauthorized     no token, or an unknown one
│   ├── Forbidden        the token's scopes, or the page's origin, do not allow it
│   ├── NotFound         no such conversation, message, model, ...
│   ├── Conflict         what is there already does not allow it
│   ├── TooLarge         the text or the body is over its limit
│   └── RateLimited      too many requests for one token
└── EngineError          the reply could not be written
    ├── EngineStopped    the service is shutting down, or the model thread has crashed
    └── PromptTooLong    the prompt does not fit the model's context

The message of an error is one sentence for the person who caused it and says the way out. It never holds a token, a
path of the server that the person did not name, or the text of a chat.
"""

from __future__ import annotations

from typing import ClassVar


class QqmemError(Exception):
    """Base of all errors that are shown to a person."""

    code: ClassVar[str] = "error"
    """Machine-readable name, `error.code` on the wire."""
    status: ClassVar[int] = 500
    """HTTP status."""


class SettingsError(QqmemError):
    """The settings file, the environment or a flag is wrong."""

    code = "settings"


class ModelError(QqmemError):
    """A model cannot be found, fetched or loaded."""

    code = "model"
    status = 503


class ReleaseError(ModelError):
    """A trained release is torn, or of another model."""

    code = "release"
    status = 409


class TrainingError(QqmemError):
    """A training run has failed."""

    code = "training"


class DatabaseError(QqmemError):
    """The database cannot be opened, or is newer than this program."""

    code = "database"


class RequestError(QqmemError):
    """What a client asked for cannot be done."""


class InvalidRequest(RequestError):
    """Malformed or out of range."""

    code = "invalid_request"
    status = 422


class Unauthorized(RequestError):
    """No token, or an unknown one."""

    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    """The token's scopes, or the page's origin, do not allow it."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """No such conversation, message, model, ..."""

    code = "not_found"
    status = 404


class Conflict(RequestError):
    """What is there already does not allow it."""

    code = "conflict"
    status = 409


class TooLarge(RequestError):
    """The text or the body is over its limit."""

    code = "too_large"
    status = 413


class RateLimited(RequestError):
    """Too many requests for one token."""

    code = "rate_limited"
    status = 429


class EngineError(QqmemError):
    """The reply could not be written."""

    code = "engine"


class EngineStopped(EngineError):
    """The service is shutting down, or the model thread has crashed."""

    code = "engine_stopped"
    status = 503


class PromptTooLong(EngineError):
    """The prompt does not fit the model's context."""

    code = "prompt_too_long"
    status = 413
