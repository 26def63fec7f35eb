"""What LAIP's phrases look at, drawn over the image, for the report (as the paper's Fig. 7).

Shapes: M phrases, N patches; image H W 3, grid of patches h w.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tbps.data.shown_pairs import ShownPairs
from tbps.methods.exhibit import Card, Exhibit, Part, Picture, Pictures
from tbps.methods.heat_map import heated
from tbps.objectives.phrases import PhraseTable
from tbps.text.tokeniser import Tokeniser

NUM_QUERIES, NUM_PHRASES = 6, 4
TITLES = {"forward": "forward", "backward": "backward", "weights": "bidirectional"}


def show_phrase_maps(
    pairs: ShownPairs,
    tokeniser: Tokeniser,
    table: PhraseTable,
    maps_MN: Mapping[str, Tensor],
    *,
    grid: tuple[int, int],
    layer: int,
    attention: str,
) -> Exhibit:
    """Each caption with its image and, for each of its first phrases, the image under each of the maps.

    table: the phrases of the pairs' captions; maps_MN: by a name of TITLES, (M, N) weights over patches; grid: rows and
    columns of patches; layer, attention: of the run, for the explanation.
    """
    maps = {name: maps_MN[name].cpu().numpy().reshape(-1, *grid) for name in maps_MN}
    cards = []
    for caption, text in enumerate(pairs.texts):
        image_HWC = pairs.pixels_BCHW[caption].permute(1, 2, 0).numpy()
        own = np.flatnonzero((table.caption_M == caption) & (table.weight_M > 0))[:NUM_PHRASES]
        phrases = [
            _phrase(image_HWC, tokeniser, table, int(phrase), {name: maps[name][phrase] for name in maps}) for phrase in own
        ]
        image = Picture(pixels_HWC=image_HWC, described=f"the image of {pairs.keys[caption]}")
        note = "" if phrases else "This caption has no noun phrase."
        cards.append(Card(title=text, cells=(Pictures(title="image", pictures=(image,)), *phrases), note=note))
    by = "forward and backward" if attention == "both" else attention
    explanation = (
        f"Cross layer {layer}, weights by {by} attention; each phrase with its last word masked. Full red is the largest"
        " weight of a map, grey the smallest; a grey map has equal weights."
    )
    return Exhibit(title="What phrases look at", explanation=explanation, parts=(Part(cards=tuple(cards)),))


def _phrase(
    image_HWC: NDArray[np.uint8],
    tokeniser: Tokeniser,
    table: PhraseTable,
    phrase: int,
    maps: Mapping[str, NDArray[np.float32]],
) -> Pictures:
    ids = table.captions.token_ids_BL[phrase, 1 : table.captions.lengths[phrase]].tolist()
    words = tokeniser.decode(ids)
    return Pictures(
        title=words,
        remark=f"masked: {tokeniser.word_of(int(table.label_M[phrase]))}",
        pictures=tuple(
            Picture(
                pixels_HWC=heated(image_HWC, weight_hw),
                described=f"{TITLES[name]} attention of {words}",
                title=TITLES[name],
            )
            for name, weight_hw in maps.items()
        ),
    )
