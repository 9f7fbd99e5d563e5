"""How this installation gets an optional package.

Owns the one sentence that every "not installed" message ends in. Read `install_command`.
"""

from __future__ import annotations

from pathlib import Path


def install_command(extra: str) -> str:
    """Return the command that adds an extra of the distribution to this installation.

    Parameters
    ----------
    extra : str
        Name of one extra, or several with commas between: ``"cpu"``, ``"cpu,fit"``.

    Returns
    -------
    str
        In a source checkout an editable install from the repository's root; elsewhere by the distribution's name,
        which pip finds installed, so that only what the extra lists is fetched.
    """
    if is_source_checkout():
        return f".venv/bin/pip install -c constraints.txt -e '.[{extra}]'"
    return f"pip install 'penstock[{extra}]'"


def is_source_checkout() -> bool:
    """Tell whether this package runs from a checkout of the repository, where ``make`` and its targets are."""
    root = Path(__file__).resolve().parents[2]
    return (root / "pyproject.toml").is_file() and (root / "constraints.txt").is_file()
