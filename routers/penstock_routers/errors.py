"""Everything that can go wrong in this package.

::

    RouterError
    ├── EncoderError          the encoder cannot be loaded or cannot encode
    ├── ArtifactError         a router artifact is refused
    └── MissingExtraError     an optional package is needed; says which install brings it

Abstention is not an error: the router then returns no estimate and the default arm answers.
"""

from __future__ import annotations


class RouterError(Exception):
    """Base of all errors raised by ``penstock_routers``.

    Parameters
    ----------
    message : str
        One sentence for the person who has to act on it, without secrets or prompt text.
    code : str
        Stable identifier in ``snake_case``.
    """

    default_code = "router_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class EncoderError(RouterError):
    """The encoder folder is missing, damaged or cannot be run."""

    default_code = "encoder_error"


class ArtifactError(RouterError):
    """A router artifact is refused; the one that served before goes on serving."""

    default_code = "artifact_error"


class MissingExtraError(RouterError):
    """An optional package is not installed; the message holds the exact install command."""

    default_code = "missing_extra"
