"""Everything that can go wrong in this package.

::

    TrainingError
    └── OutcomeError          outcome files are refused; holds the counts and the first bad rows

Each error has a stable ``code`` and a ``message`` without prompt text.
"""

from __future__ import annotations


class TrainingError(Exception):
    """Base of all errors raised by ``penstock_training``.

    Parameters
    ----------
    message : str
        One or a few sentences for the person who has to act on it, without prompt text or secrets.
    code : str, optional
        Stable identifier in ``snake_case``; the class default when omitted.
    """

    default_code = "training_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code


class OutcomeError(TrainingError):
    """Outcome files cannot be used: unreadable, refused for their bad rows, or without a usable row."""

    default_code = "outcome_error"
