"""How many bytes each category may hold: a reserve that others cannot take, a cap, and borrowing in between.

Owns the count of used bytes and the choice of the category that gives. Must not know entries. Read
`CategoryQuotas.choose_victim_category`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CategoryQuota:
    """What one category may hold.

    Attributes
    ----------
    reserve_bytes : int, at least 0
        While it holds no more than this, no other category takes from it.
    cap_bytes : int or None
        It never holds more; None for the whole capacity.
    weight : float, above 0
        Of two categories above their reserves, one with twice the weight keeps twice the surplus.
    """

    reserve_bytes: int = 0
    cap_bytes: int | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        cap_bytes = self.reserve_bytes if self.cap_bytes is None else self.cap_bytes
        if not 0 <= self.reserve_bytes <= cap_bytes or not self.weight > 0.0:
            raise ValueError("a quota needs 0 <= reserve <= cap, and a weight above 0")


class CategoryQuotas:
    """Used bytes by category, and who gives when room is needed.

    Parameters
    ----------
    capacity_bytes : int, at least 1
        Of the whole cache.
    quotas : mapping of str to CategoryQuota
    default : CategoryQuota
        Of every category that is not named; its reserve must be 0, because nobody knows how many there will be.

    Raises
    ------
    ValueError
        The reserves exceed the capacity, or the default has one.

    Notes
    -----
    Every method is O(1) but `choose_victim_category` and `can_fit`, which are O(c) for c categories.
    """

    def __init__(
        self,
        capacity_bytes: int,
        quotas: Mapping[str, CategoryQuota] | None = None,
        default: CategoryQuota = CategoryQuota(),
    ) -> None:
        if capacity_bytes < 1:
            raise ValueError("the capacity is at least 1 byte")
        if default.reserve_bytes:
            raise ValueError("the default quota has no reserve")
        self.capacity_bytes = capacity_bytes
        self._default = default
        self._quotas = _checked(dict(quotas or {}), capacity_bytes)
        self._used_bytes: dict[str, int] = {}
        self._total_bytes = 0

    @property
    def total_bytes(self) -> int:
        """Bytes used by all categories, in [0, capacity_bytes]."""
        return self._total_bytes

    @property
    def quotas(self) -> dict[str, CategoryQuota]:
        """The quotas of the named categories."""
        return dict(self._quotas)

    def used_bytes(self, category: str) -> int:
        """Return what a category holds."""
        return self._used_bytes.get(category, 0)

    def quota(self, category: str) -> CategoryQuota:
        """Return a category's quota, the default where it has none of its own."""
        return self._quotas.get(category, self._default)

    def cap_bytes(self, category: str) -> int:
        """Return the most that a category may hold, at most the capacity."""
        cap_bytes = self.quota(category).cap_bytes
        return self.capacity_bytes if cap_bytes is None else min(cap_bytes, self.capacity_bytes)

    def can_fit(self, category: str, size_bytes: int) -> bool:
        """Whether `size_bytes` more of a category fit after evictions that the quotas allow."""
        if size_bytes > self.cap_bytes(category):
            return False
        others = ((other, used) for other, used in self._used_bytes.items() if other != category)
        kept = sum(min(used, self.quota(other).reserve_bytes) for other, used in others)
        return size_bytes <= self.capacity_bytes - kept

    def choose_victim_category(self, category: str, size_bytes: int) -> str | None:
        """Name the category that has to give an entry so that `size_bytes` more of `category` fit.

        Parameters
        ----------
        category : str
            Whose entry is to come in; `can_fit` was true.
        size_bytes : int

        Returns
        -------
        str or None
            None when they fit as things are. Ask again after each eviction.

        Notes
        -----
        A category at its cap gives its own. Otherwise, of the categories above their reserves, the one with the largest
        ``(used − reserve)/weight`` gives; at a tie `category` itself, then the first by name. If none is above, the
        category gives its own.
        """
        if self.used_bytes(category) + size_bytes > self.cap_bytes(category):
            return category
        if self._total_bytes + size_bytes <= self.capacity_bytes:
            return None
        surpluses = [
            ((used - quota.reserve_bytes) / quota.weight, other == category, other)
            for other, used in sorted(self._used_bytes.items())
            if used > (quota := self.quota(other)).reserve_bytes
        ]
        return max(surpluses, key=lambda surplus: surplus[:2])[2] if surpluses else category

    def charge(self, category: str, size_bytes: int) -> None:
        """Count an entry that came in.

        Raises
        ------
        ValueError
            It does not fit: victims were not evicted first.
        """
        used = self.used_bytes(category) + size_bytes
        if used > self.cap_bytes(category) or self._total_bytes + size_bytes > self.capacity_bytes:
            raise ValueError(f"{size_bytes} bytes more of a category do not fit")
        self._used_bytes[category] = used
        self._total_bytes += size_bytes

    def release(self, category: str, size_bytes: int) -> None:
        """Count an entry that went.

        Raises
        ------
        ValueError
            The category does not hold that much.
        """
        used = self.used_bytes(category) - size_bytes
        if used < 0:
            raise ValueError(f"a category cannot give {size_bytes} bytes that it does not hold")
        self._used_bytes[category] = used
        self._total_bytes -= size_bytes


def _checked(quotas: dict[str, CategoryQuota], capacity_bytes: int) -> dict[str, CategoryQuota]:
    reserved = sum(quota.reserve_bytes for quota in quotas.values())
    if reserved > capacity_bytes:
        raise ValueError(f"reserves of {reserved} bytes exceed the capacity of {capacity_bytes} bytes")
    return quotas
