"""What BAMG shows in a report: words that see, graphs with a masked node, counts of parameters."""

from __future__ import annotations

import numpy as np
import torch
from tiny_bamg import BAMG, build, maps
from torch import nn

from tbps.config.data import Pixels
from tbps.data.shown_pairs import ShownPairs
from tbps.methods.clip.bamg_exhibits import MASKED, show_graphs, show_parameters, show_words
from tbps.methods.clip.masked_graph import read_bodies
from tbps.methods.exhibit import Number, Pictures, Text
from tbps.nn.body_graph import edges
from tbps.nn.lora import add_adapters
from tbps.text.clip_tokens import ClipTokens
from tbps.text.token_batch import Captions


def shown_pairs(captions: Captions, texts: list[str]) -> ShownPairs:
    return ShownPairs(
        keys=[f"{row}.jpg#0" for row in range(len(texts))],
        image_keys=[f"{row}.jpg" for row in range(len(texts))],
        texts=texts,
        captions=captions,
        pixels_BCHW=torch.full((len(texts), 3, 32, 16), 100, dtype=torch.uint8),
        pixels=Pixels(),
    )


def test_graphs_show_the_masked_node_and_its_error() -> None:
    uniform = torch.tensor([0.99, 0.0, 0.5])
    bodies = read_bodies(maps()[[0, 2, 5]], uniform, patch_px=8, stride_px=8)
    pairs = shown_pairs(
        Captions(token_ids_BL=torch.zeros(3, 2), lengths=(2, 2, 2), chunk_id_BL=torch.zeros(3, 2)), ["a"] * 3
    )
    error = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.9], [0.7] * 6, [0.0] * 6])
    exhibit = show_graphs(pairs, bodies, error, grid=(4, 2), edges=edges("star"))
    rows = exhibit.parts[0].tables[0].rows
    assert [row[1] for row in rows] == [Text(text="right leg"), Text(text="head"), Text(text="none is seen")]
    values = [[cell.value if isinstance(cell, Number) else None for cell in row[2:]] for row in rows]
    np.testing.assert_allclose(values[0], [0.9, 0.3], rtol=1e-6)
    assert values[1][1] is None and values[2] == [None, None]
    cells = [card.cells[0] for card in exhibit.parts[0].cards]
    assert all(isinstance(cell, Pictures) for cell in cells)
    drawn = [cell.pictures[1] for cell in cells if isinstance(cell, Pictures)]
    assert [picture.title for picture in drawn] == [
        "right leg masked, error 0.900",
        "head masked, error 0.700",
        "no part is seen",
    ]
    red = [(picture.pixels_HWC == MASKED).all(2) for picture in drawn]
    rows_px = [float(np.nonzero(one)[0].mean()) / 256 for one in red[:2]]
    assert rows_px[0] > 0.6 and rows_px[1] < 0.3 and not red[2].any()


def test_words_are_shown_with_what_they_see() -> None:
    tokeniser = ClipTokens(with_mask=True)
    text = "The man wears a striped shirt and dark trousers"
    ids = [tokeniser.start_id, *tokeniser.encode(text).ids, tokeniser.end_id]
    captions = Captions(token_ids_BL=torch.tensor([ids]), lengths=(len(ids),), chunk_id_BL=torch.zeros(1, len(ids)))
    seen = torch.zeros(1, len(ids), 8)
    seen[0, :, 0] = 1.0
    exhibit = show_words(shown_pairs(captions, [text]), tokeniser, seen, grid=(4, 2), through="by attention")
    _, *words = exhibit.parts[0].cards[0].cells
    assert [cell.title for cell in words] == ["wears", "striped", "shirt", "dark", "trousers"]
    picture = words[0].pictures[0].pixels_HWC  # type: ignore[union-attr]
    assert tuple(picture[1, 1]) != tuple(picture[-1, -1]) and picture[1, 1, 0] > picture[1, 1, 2]


def test_parameters_are_counted_once_by_part_and_kind() -> None:
    method: nn.Module = build()
    add_adapters([method.towers.image, method.towers.text], rank=2, alpha=4, targets=["q"])  # type: ignore[union-attr, list-item]
    rows = show_parameters(method, ("towers.image", "towers.text", "fusion")).parts[0].tables[0].rows
    counted = {row[0].text: [int(cell.text.replace(",", "")) for cell in row[1:4]] for row in rows}  # type: ignore[union-attr]
    assert list(counted) == ["towers.image", "towers.text", "fusion", "the rest", "all"]
    assert counted["towers.image"][:2] == [2 * 2 * (24 + 24), 0] and counted["fusion"][2] == counted["fusion"][0] == 0
    assert sum(counted["all"]) == sum(parameter.numel() for parameter in method.parameters())
    assert counted["all"] == [sum(numbers) for numbers in zip(*list(counted.values())[:-1], strict=True)]
    assert BAMG.towers.image.width == 24
