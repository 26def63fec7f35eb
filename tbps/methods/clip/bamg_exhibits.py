"""What BAMG shows of itself in the report: what words see (the paper's Fig. 5), the graph of a body, what is trained.

Shapes: B pairs, L caption tokens, N patches, K = 6 parts; image H W 3, grid of patches h w.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn

from tbps.data.fields import read_parsing
from tbps.data.label_maps import resize_map
from tbps.data.shown_pairs import ShownPairs, ShownSplit
from tbps.methods.clip.masked_graph import Bodies
from tbps.methods.exhibit import Card, Exhibit, Number, Part, Picture, Pictures, Table, Text
from tbps.methods.heat_map import heated
from tbps.nn.body_parts import PARTS
from tbps.text.tokeniser import Tokeniser

NUM_PAIRS, NUM_WORDS, LETTERS = 5, 6, 4
"""Pairs, and words of a caption that are shown: those of four letters and more."""
DRAWN_PX = 256
"""Height to which an image is enlarged before a graph is drawn on it."""
GRAPH_TITLE = "The graph of a body"
JOINT, MASKED, NODE = (255, 255, 255), (220, 30, 30), (40, 110, 220)


def show_words(pairs: ShownPairs, tokeniser: Tokeniser, seen_BLN: Tensor, *, grid: tuple[int, int], through: str) -> Exhibit:
    """Each caption with its image and, for some of its words, what they see of it.

    seen_BLN: weights of patches for each token of the captions; through: how words look at patches, for the explanation.
    """
    seen = seen_BLN.cpu().numpy().reshape(*seen_BLN.shape[:2], *grid)
    cards = []
    for row, text in enumerate(pairs.texts):
        image_HWC = pairs.pixels_BCHW[row].permute(1, 2, 0).numpy()
        places = _words(tokeniser, pairs.captions.token_ids_BL[row, : pairs.captions.lengths[row]])
        maps = [
            Pictures(
                title=word,
                pictures=(Picture(pixels_HWC=heated(image_HWC, seen[row, place]), described=f"what {word} sees"),),
            )
            for place, word in places
        ]
        image = Picture(pixels_HWC=image_HWC, described=f"the image of {pairs.keys[row]}")
        cards.append(Card(title=text, cells=(Pictures(title="image", pictures=(image,)), *maps)))
    explanation = (
        f"Weights of patches, {through}; sum over layers, mean over heads. Full red is the largest weight of a map, grey the"
        " smallest; a grey map has equal weights."
    )
    return Exhibit(title="What words see", explanation=explanation, parts=(Part(cards=tuple(cards)),))


def read_maps(shown: ShownSplit, queries: Sequence[int]) -> Tensor:
    """Parsing maps of the queries' images, (B, H, W) uint8. ValueError: the split has none."""
    source = shown.evaluation_set.source
    maps = [read_parsing(source, query, label_set="pascal") for query in queries]
    return torch.stack([resize_map(labels_HW, image_px=shown.image_px) for labels_HW in maps])


def show_graphs(
    pairs: ShownPairs,
    bodies: Bodies,
    error_BK: Tensor,
    *,
    grid: tuple[int, int],
    edges: Sequence[tuple[int, int]],
) -> Exhibit:
    """The graph of each body on its image, the masked node in red, and how far its guess is off. error_BK: of each part."""
    rows, cards = [], []
    for row, key in enumerate(pairs.image_keys):
        present = bodies.present_BK[row].nonzero().flatten().tolist()
        masked = bodies.masked_BK[row].nonzero().flatten().tolist()
        errors = error_BK[row].tolist()
        image_HWC = pairs.pixels_BCHW[row].permute(1, 2, 0).numpy()
        drawn = _graph(image_HWC, bodies.share_BNK[row].cpu().numpy(), grid, edges, present, masked)
        name = PARTS[masked[0]] if masked else "none is seen"
        title = f"{name} masked, error {errors[masked[0]]:.3f}" if masked else "no part is seen"
        pictures = (
            Picture(pixels_HWC=image_HWC, described=f"the image {key}"),
            Picture(pixels_HWC=drawn, described=f"the graph of {key}: {title}", title=title),
        )
        cards.append(Card(title=pairs.texts[row], cells=(Pictures(pictures=pictures, height_px=DRAWN_PX),)))
        others = [errors[part] for part in present if part not in masked]
        of_masked = Number(value=errors[masked[0]]) if masked else Text(text="-")
        of_others = Number(value=float(np.mean(others))) if others else Text(text="-")
        rows.append((Text(text=key), Text(text=name), of_masked, of_others))
    table = Table(columns=("image", "masked part", "its error", "mean error of the other parts"), rows=tuple(rows))
    explanation = (
        "Squared error of the guessed features of a part, mean over features, where one part of each body is masked; blue"
        " nodes are parts that are seen, the red one is masked. A guess that knows nothing errs by about 1."
    )
    return Exhibit(title=GRAPH_TITLE, explanation=explanation, parts=(Part(tables=(table,), cards=tuple(cards)),))


def show_parameters(method: nn.Module, parts: Sequence[str]) -> Exhibit:
    """How many parameters of each part are trained, and how many frozen. parts: dotted names; the first that fits counts."""
    counts = {part: [0, 0, 0] for part in (*parts, "the rest")}
    for name, parameter in method.named_parameters():
        part = next((part for part in parts if name.startswith(f"{part}.")), "the rest")
        kind = 2 if not parameter.requires_grad else 1 if ".lora_" in name else 0
        counts[part][kind] += parameter.numel()
    counts["all"] = [sum(numbers) for numbers in zip(*counts.values(), strict=True)]

    def line(part: str, numbers: Sequence[int]) -> tuple[Text | Number, ...]:
        shown = (numbers[1], numbers[0], numbers[2])
        share = (numbers[0] + numbers[1]) / max(1, sum(numbers))
        return (Text(text=part), *(Text(text=f"{number:,}") for number in shown), Number(value=share, percent=True))

    table = Table(
        columns=("part", "adapters", "trained whole", "frozen", "trained"), rows=tuple(starmap(line, counts.items()))
    )
    return Exhibit(title="Trained and frozen parameters", parts=(Part(tables=(table,)),))


def _words(tokeniser: Tokeniser, token_id_L: Tensor) -> list[tuple[int, str]]:
    """Places and texts of some tokens that are words of their own, in the order of the caption."""
    words = [(place, tokeniser.word_of(token)) for place, token in enumerate(token_id_L.tolist())]
    is_word = tokeniser.is_word(token_id_L).tolist()
    long = [(place, word) for place, word in words if is_word[place] and len(word) >= LETTERS and word.isalpha()]
    chosen = np.linspace(0, len(long) - 1, min(NUM_WORDS, len(long))).astype(int)
    return [long[index] for index in sorted(set(chosen.tolist()))]


def _graph(
    image_HWC: NDArray[np.uint8],
    share_NK: NDArray[np.float32],
    grid: tuple[int, int],
    edges: Sequence[tuple[int, int]],
    present: Sequence[int],
    masked: Sequence[int],
) -> NDArray[np.uint8]:
    """The image with nodes where the middle of each part that is seen lies."""
    scale = DRAWN_PX / image_HWC.shape[0]
    size = (round(image_HWC.shape[1] * scale), DRAWN_PX)
    picture = Image.fromarray(image_HWC).resize(size, Image.Resampling.BILINEAR)
    pen = ImageDraw.Draw(picture)
    place_N2 = np.stack(np.meshgrid(np.arange(grid[1]), np.arange(grid[0])), axis=-1).reshape(-1, 2) + 0.5
    step = np.array((size[0] / grid[1], size[1] / grid[0]))
    middle = {part: tuple((share_NK[:, part] @ place_N2 / share_NK[:, part].sum()) * step) for part in present}
    for one, other in edges:
        if one in middle and other in middle:
            pen.line([middle[one], middle[other]], fill=JOINT, width=3)
    for part, (x, y) in middle.items():
        pen.ellipse((x - 7, y - 7, x + 7, y + 7), fill=MASKED if part in masked else NODE, outline=JOINT)
    return np.asarray(picture)
