"""The mark of settings that say where or how verbosely a run happens, not what it computes.

They are left out of the hash that decides whether a run folder may be continued.
"""

from __future__ import annotations

PLACE = {"place": True}
"""Metadata of such a field: `field(default=..., metadata=PLACE)`."""
