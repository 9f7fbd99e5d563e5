"""The cache's file under any damage: it is read as far as it can be, and raises nothing but what is documented."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_cache.entries import encode_document
from penstock_cache.errors import StoreUnavailable
from penstock_cache.stores.changes import Cleared, Removed, encode_change
from penstock_cache.stores.log_frames import CHANGE, DOCUMENT, HEADER, frame, load_log
from support.cache_documents import NOW, document

WHOLE = HEADER + b"".join(
    [
        *(frame(DOCUMENT, encode_document(document(number))) for number in range(4)),
        frame(CHANGE, encode_change(Removed("acme", (document(1).entry_id,)))),
        frame(CHANGE, encode_change(Cleared("rival", None, NOW))),
        frame(DOCUMENT, encode_document(document(4))),
    ]
)


@given(
    places=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), max_size=4),
    length=st.integers(0, len(WHOLE)),
    tail=st.binary(max_size=40),
)
@settings(max_examples=300)
def test_load_log_of_a_damaged_file_returns_only_what_was_stored(
    places: list[tuple[int, int]], length: int, tail: bytes
) -> None:
    """Changed bytes, a cut and noise never make a document that was not stored, nor bring back a deleted one whose
    deletion is in the part that counts; and a repaired file reads the same again without a cut.
    """
    content = bytearray(WHOLE)
    for place, change in places:
        content[place] ^= change
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.log"
        path.write_bytes(bytes(content[:length]) + tail)
        try:
            loaded = load_log(path, NOW)
        except StoreUnavailable:  # the header is not ours any more
            return
        stored = {document(number).entry_id: document(number) for number in range(5)}
        assert all(stored[each.entry_id] == each for each in loaded.shelf.documents())
        assert loaded.shelf.entry_count == sum(1 for _ in loaded.live.places())
        assert loaded.live.size_bytes == sum(size for *_, size in loaded.live.places())
        again = load_log(path, NOW)
        assert again.cut_bytes == 0
        assert list(again.shelf.documents()) == list(loaded.shelf.documents())
        is_deletion_whole = loaded.size_bytes >= len(WHOLE) - len(frame(DOCUMENT, encode_document(document(4))))
        assert not (is_deletion_whole and loaded.shelf.get("acme", document(1).entry_id))
