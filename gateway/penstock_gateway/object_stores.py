"""Opening an object store by its URL, with the client that is installed.

Owns the import of fsspec and the choice of a client. Must not be imported where no store is used: fsspec is optional
(the extra `ship`). Read `open_store`.
"""

from __future__ import annotations

from typing import Any, Final

_IN_PYARROW: Final = ("s3://", "gs://")
"""Stores whose clients pyarrow's wheels have inside (arrow.apache.org/docs/python/filesystems.html)."""


def open_store(url: str) -> tuple[Any, str]:
    """Open a store.

    The store's own fsspec client (s3fs, gcsfs, adlfs …) is taken where it is installed. Without one, S3 and Google
    Cloud Storage are reached by pyarrow's, so that the image needs no further package for them.

    Parameters
    ----------
    url : str
        ``scheme://bucket/prefix``, as fsspec names it. Credentials come from where the client looks for them:
        variables, files, or the identity of the pod.

    Returns
    -------
    store : fsspec.AbstractFileSystem
    path : str
        In the store, without a slash at the end.

    Raises
    ------
    ModuleNotFoundError
        ``name`` is ``"fsspec"`` or below it: the extra `ship` is not installed.
    ImportError
        No client knows this kind of store.
    ValueError, OSError
        The URL is none, or the client refuses it.
    """
    import fsspec.core

    try:
        store, path = fsspec.core.url_to_fs(url)
    except ImportError:
        if not url.startswith(_IN_PYARROW):
            raise
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow.fs import FileSystem

        inner, path = FileSystem.from_uri(url)
        store = ArrowFSWrapper(inner)
    return store, str(path).rstrip("/")
