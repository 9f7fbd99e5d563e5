"""Stored prompts as they were read once, and their second vectors.

Owns how many are kept, and in which form: those used last as they are compared, the others packed. Read
`RememberedTexts.read`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from penstock_cache.entries import FloatArray
from penstock_cache.guards.packing import pack, unpack
from penstock_cache.pairs import JudgedText

REMEMBERED_TEXTS: Final = 4096
"""Stored prompts that are remembered: some 1 kB each, and 1.5 kB of second vector once that was asked for."""

UNPACKED_TEXTS: Final = 512
"""Those among them that lie ready. Each takes about 6 kB, and is some twenty objects for the garbage collector to walk
over: 10 ms for all of them on a slow core, during which nothing else runs. To unpack one takes a fifth of the time in
which its text is read."""


class Remembered(msgspec.Struct, gc=False):
    """A stored prompt.

    Attributes
    ----------
    text : str
    judged : JudgedText or None
        None while it is packed.
    packed : bytes
        Empty until it was packed for the first time.
    verified : ndarray of float32, shape (d,), or None
        Its second vector, when it has been asked for.
    """

    text: str
    judged: JudgedText | None
    packed: bytes = b""
    verified: FloatArray | None = None


class RememberedTexts:
    """The stored prompts that were compared last, by entry.

    Parameters
    ----------
    most, unpacked : int
        Beyond which the one used longest ago is forgotten, or packed.

    Notes
    -----
    Texts are content: `forget` goes with the deletion of an entry.
    """

    def __init__(self, most: int = REMEMBERED_TEXTS, unpacked: int = UNPACKED_TEXTS) -> None:
        self._most = most
        self._unpacked = unpacked
        self._texts: OrderedDict[str, Remembered] = OrderedDict()
        self._ready: OrderedDict[str, Remembered] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._texts)

    def get(self, entry_id: str) -> Remembered | None:
        """Return what is known of an entry; None when it is not remembered."""
        return self._texts.get(entry_id)

    def read(self, entry_id: str, text: str | None = None) -> JudgedText | None:
        """Return an entry's prompt as it was read, and count that as a use.

        Parameters
        ----------
        entry_id : str
        text : str, optional
            The entry's prompt, if known: what is remembered of another one does not count.

        Returns
        -------
        JudgedText or None
            None when it is not remembered.
        """
        known = self._texts.get(entry_id)
        if known is None or (text is not None and known.text != text):
            return None
        judged = known.judged
        if judged is None:
            judged = known.judged = JudgedText(known.text, unpack(known.packed))
        self._texts.move_to_end(entry_id)
        self._make_ready(entry_id, known)
        return judged

    def keep(self, entry_id: str, text: str, verified: FloatArray | None) -> JudgedText:
        """Read an entry's prompt, and remember it in the place of what was remembered of the entry."""
        self.forget(entry_id)
        judged = JudgedText.of(text)
        known = self._texts[entry_id] = Remembered(text, judged, verified=verified)
        if len(self._texts) > self._most:
            self.forget(next(iter(self._texts)))
        self._make_ready(entry_id, known)
        return judged

    def forget(self, entry_id: str) -> None:
        """Forget an entry."""
        self._texts.pop(entry_id, None)
        self._ready.pop(entry_id, None)

    def _make_ready(self, entry_id: str, known: Remembered) -> None:
        self._ready[entry_id] = known
        self._ready.move_to_end(entry_id)
        if len(self._ready) > self._unpacked:
            self._pack(*self._ready.popitem(last=False))

    def _pack(self, entry_id: str, known: Remembered) -> None:
        if not known.packed and known.judged is not None:
            try:
                known.packed = pack(known.judged.signature)
            except UnicodeEncodeError:  # half of a surrogate pair, which no store's document can have
                self.forget(entry_id)
                return
        known.judged = None
