"""Words of pedestrian captions that say nothing of how a person looks: "the", "and", "with", "wearing".

Ours: AGA counts such words with "a small vocabulary containing common semantically vacuous words like the, and, that",
which is not published. Left out on purpose: "no", "without" and words of place such as "left", which change what is seen.
"""

from __future__ import annotations

_WORDS = """
a an the this that these those there here it its his her hers he she they their them him himself herself who whose
whom which what and or but nor so as if while also both each either too very quite just well then than such
with of in on at to from by for about into onto over under above below down up out off across around along
near through between against behind upon
is are was were be been being am has have had having do does did can could may might will would seems seem appears
appear wears wearing wear dressed carrying carries holding holds walking walks standing stands
shown seen looking looks some any other another one
"""
VACUOUS_WORDS = frozenset(_WORDS.split())
