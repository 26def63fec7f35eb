"""Something odd or wrong in a data set, with the names of what it was found in."""

from __future__ import annotations

from dataclasses import dataclass

NUM_EXAMPLES = 5
"""Names shown of a longer list."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Things of one kind that are odd or wrong."""

    what: str
    names: tuple[str, ...]
    """Pair keys, image paths or ids, each with what belongs to it."""
    fatal: bool
    """Training or evaluation would stop at it, or its results would be untrue."""

    def text(self, *, all_names: bool = False) -> str:
        """Number, what and names: a few examples or all."""
        some = self.names if all_names else self.names[:NUM_EXAMPLES]
        shown = ", ".join(some) + (", ..." if len(some) < len(self.names) else "")
        return f"{len(self.names)} {self.what}: {shown}"

    def line(self, *, all_names: bool = False) -> str:
        """One line of a report."""
        return f"{'ERROR' if self.fatal else 'note'}: {self.text(all_names=all_names)}"
