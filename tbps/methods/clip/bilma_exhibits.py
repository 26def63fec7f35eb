"""What BiLMa shows of itself in the report: parsing maps, masked patches, and what answers for a masked word or patch.

The last is the paper's Fig. 3: the attention of a masked token in the last block of the cross-modal encoder, mean over
heads.

Shapes: B pairs, P = 1 + N image tokens, L tokens of the longest caption, M masked tokens; image H W 3, grid of patches h w.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from tbps.config.data import LabelSetName
from tbps.data.draws import generator_of
from tbps.data.fields import read_parsing
from tbps.data.label_maps import resize_map
from tbps.data.shown_pairs import ShownPairs, ShownSplit
from tbps.methods.clip.patch_task import PatchTask, PatchTelling
from tbps.methods.exhibit import Card, Exhibit, Number, Part, Picture, Pictures, Table, Text, Words
from tbps.methods.heat_map import heated
from tbps.nn.clip_text import pack_captions, with_token_ids
from tbps.nn.clip_towers import ClipTowers
from tbps.nn.cross_modal_encoder import CrossModalEncoder, join
from tbps.objectives.patch_labels import UNLABELLED
from tbps.text.tokeniser import Tokeniser

NUM_SHOWN = 5
"""Pairs that are drawn."""
NUM_COUNTED = 48
"""Pairs whose masked patches are counted."""
NUM_WORDS, NUM_PATCHES, NUM_MARKED, LETTERS = 3, 2, 3, 4
"""Of a pair: masked words, of four letters and more; masked patches; and words that are marked for a patch."""
HEIGHT_PX = 224
GREY = 127
PARSING, WORDS = "Parsing maps", "Which patches answer for a masked word"
LEGEND = "Each label has a colour of its own; background is black."


@dataclass(frozen=True, kw_only=True)
class Shower:
    """Makes the exhibits of BiLMa from the parts of the method that they need, which are in evaluation mode."""

    towers: ClipTowers
    encoder: CrossModalEncoder
    telling: PatchTelling
    tokeniser: Tokeniser
    mask_id: int
    label_set: LabelSetName
    grid: tuple[int, int]
    """Rows and columns of patches."""

    def chapters(self, shown: ShownSplit) -> list[Exhibit]:
        """All exhibits, made of pairs spread over the split."""
        spread = shown.spread(NUM_COUNTED)
        drawn = _some(spread, NUM_SHOWN)
        pairs = shown.read(drawn)
        exhibits = []
        if self.telling.target == "semantic" and self.encoder.patch_head is not None:
            queries = [*drawn, *(query for query in spread if query not in drawn)]
            map_BHW, why = _read_maps(shown, queries, self.label_set)
            if map_BHW is None:
                exhibits.append(Exhibit(title=PARSING, parts=(Part(note=why),)))
            else:
                exhibits.append(self._parsing(pairs, map_BHW))
                exhibits.append(self._masked_patches(shown.read(queries), map_BHW))
        return exhibits + ([self._masked_words(pairs)] if self.encoder.word_head is not None else [])

    def _parsing(self, pairs: ShownPairs, map_BHW: Tensor) -> Exhibit:
        """Each image beside its map, with the names of what is on it. map_BHW: of these pairs, and perhaps of more."""
        cards = []
        for row, (text, labels) in enumerate(zip(pairs.texts, map_BHW.numpy(), strict=False)):
            image_HWC = _image(pairs, row)
            named = ", ".join(self.telling.labels[label] for label in np.unique(labels) if label)
            pictures = (
                Picture(pixels_HWC=image_HWC, described=f"the image of {pairs.keys[row]}", title="image"),
                Picture(pixels_HWC=self._coloured(image_HWC, labels), described=f"its parsing map: {named}", title="map"),
            )
            cards.append(Card(title=text, cells=(Pictures(pictures=pictures, height_px=HEIGHT_PX),), note=named))
        return Exhibit(title=PARSING, explanation=LEGEND, parts=(Part(cards=tuple(cards)),))

    @torch.no_grad()
    def _masked_patches(self, pairs: ShownPairs, map_BHW: Tensor) -> Exhibit:
        """Masked patches with the labels that are told and the true ones; for some, the words that answer for them."""
        task, told_M, look_ML = self._tell(pairs, map_BHW)
        assert task.label_M is not None
        true_M = task.label_M.cpu().numpy()
        explanation = (
            f"{len(true_M) // len(pairs.keys)} patches of each image are masked at random and told by the rest of the image"
            f" and the whole caption. {LEGEND} Words that answer for a patch: the {NUM_MARKED} tokens of the"
            " caption that it attends to most, in the last block."
        )
        patches = len(true_M) // len(pairs.keys)
        cards = [
            self._patch_card(
                pairs, row, _Masked.of(task, told_M, true_M, look_ML, slice(row * patches, (row + 1) * patches))
            )
            for row in range(min(NUM_SHOWN, len(pairs.keys)))
        ]
        parts = (Part(tables=(self._table(told_M, true_M),)), Part(cards=tuple(cards)))
        return Exhibit(title="Masked patches", explanation=explanation, parts=parts)

    def _tell(self, pairs: ShownPairs, map_BHW: Tensor) -> tuple[PatchTask, NDArray[np.int64], NDArray[np.float32]]:
        """Mask patches by the images' keys; labels that are told, and what masked patches attend to."""
        device = self.towers.image.cls_token.device
        text = pack_captions(pairs.captions.token_ids_BL, pairs.captions.lengths, device=device)
        joint = join(text.layout, image_tokens=1 + self.grid[0] * self.grid[1], device=device)
        numbers = [
            torch.rand(self.grid[0] * self.grid[1], generator=generator_of(seed=0, epoch=0, key=key, use="masked patches"))
            for key in pairs.image_keys
        ]
        image_BCHW = pairs.images(device)
        task = self.telling.choose(
            torch.stack(numbers).double().numpy(),
            joint,
            image_BCHW=image_BCHW,
            map_BHW=map_BHW.to(device),
            erased_BHW=None,
        )
        image_BPE, text_TE = self.towers.image(image_BCHW), self.towers.text(text)
        assert self.encoder.patch_head is not None
        hidden_ME = self.encoder(image_BPE, text_TE, joint, rows_M=task.row_M, masked_BP=task.masked_BP)
        look_ML = self.encoder.attended(image_BPE, text_TE, joint, rows_M=task.row_M, masked_BP=task.masked_BP)
        told_M = self.encoder.patch_head(hidden_ME).argmax(1).cpu().numpy()
        return task, told_M, look_ML.float().cpu().numpy()

    def _table(self, told_M: NDArray[np.int64], true_M: NDArray[np.int64]) -> Table:
        """How many masked patches of each label are told, beside the share of the commonest label."""
        counted = true_M != UNLABELLED
        told_M, true_M = told_M[counted], true_M[counted]
        number_C = np.bincount(true_M, minlength=len(self.telling.labels))
        right_C = np.bincount(true_M[told_M == true_M], minlength=len(self.telling.labels))
        rows: list[tuple[Text | Number, ...]] = []
        for label in np.argsort(-number_C, kind="stable")[: np.count_nonzero(number_C)]:
            name, number = Text(text=self.telling.labels[label]), float(number_C[label])
            rows.append((name, Number(value=number), _share(right_C[label], number_C[label])))
        total = int(number_C.sum())
        rows.append((Text(text="all"), Number(value=float(total)), _share(right_C.sum(), total)))
        if total:
            commonest = Text(text="share of the commonest label", remark=self.telling.labels[int(number_C.argmax())])
            rows.append((commonest, Number(value=float(number_C.max())), _share(number_C.max(), total)))
        return Table(columns=("label", "masked patches", "told"), rows=tuple(rows))

    def _patch_card(self, pairs: ShownPairs, row: int, masked: _Masked) -> Card:
        image_HWC = _image(pairs, row)
        hidden = self._over_pixels(masked.place_K, np.ones_like(masked.place_K), image_HWC) > 0
        grey = np.where(hidden[..., None], GREY, image_HWC).astype(np.uint8)
        pictures = [Picture(pixels_HWC=grey, described="the image with masked patches", title="masked")]
        for name, label_K in (("told", masked.told_K), ("true", masked.true_K)):
            labels = self._over_pixels(masked.place_K, np.maximum(label_K, 0), image_HWC)
            pixels = np.where(hidden[..., None], self._coloured(image_HWC, labels, share=0.8), image_HWC)
            pictures.append(Picture(pixels_HWC=pixels, described=f"{name} labels of masked patches", title=name))
        cells: list[Pictures | Words] = [Pictures(pictures=tuple(pictures), height_px=HEIGHT_PX)]
        tokens = 1 + self.grid[0] * self.grid[1]
        for place in _some(np.flatnonzero(masked.true_K > 0), NUM_PATCHES):
            told, true = (self.telling.labels[int(label[place])] for label in (masked.told_K, masked.true_K))
            outlined = self._outlined(image_HWC, int(masked.place_K[place]))
            title = f"{true}, told as {told}"
            cells.append(Pictures(title=title, pictures=(Picture(pixels_HWC=outlined, described=f"a patch: {title}"),)))
            words = self._answering(pairs, row, masked.look_KL[place, tokens:])
            cells.append(Words(title="words that answer for it", words=words))
        return Card(title=pairs.texts[row], cells=tuple(cells))

    def _answering(self, pairs: ShownPairs, row: int, look_L: NDArray[np.float32]) -> tuple[tuple[str, bool], ...]:
        """The caption's pieces, without start and end, and whether each is among those that are attended to most."""
        last = pairs.captions.lengths[row] - 1
        ids = pairs.captions.token_ids_BL[row, 1:last].tolist()
        most = set(np.argsort(-look_L[1:last], kind="stable")[:NUM_MARKED].tolist())
        return tuple((self.tokeniser.word_of(token), place in most) for place, token in enumerate(ids))

    @torch.no_grad()
    def _masked_words(self, pairs: ShownPairs) -> Exhibit:
        """Some words of each caption, masked one at a time: which patches answer for them, and what is told."""
        chosen = [(row, place) for row in range(len(pairs.keys)) for place in self._long_words(pairs, row)]
        heat: dict[int, list[Pictures]] = {row: [] for row in range(len(pairs.keys))}
        if chosen:
            told_M, look_MN = self._tell_words(pairs, chosen)
            for (row, place), told, look_N in zip(chosen, told_M, look_MN, strict=True):
                word = self.tokeniser.word_of(int(pairs.captions.token_ids_BL[row, place]))
                picture = Picture(
                    pixels_HWC=heated(_image(pairs, row), look_N.reshape(self.grid)), described=f"what answers for {word}"
                )
                heat[row].append(Pictures(title=word, remark=f"told: {self.tokeniser.word_of(told)}", pictures=(picture,)))
        cards = []
        for row, text in enumerate(pairs.texts):
            image = Picture(pixels_HWC=_image(pairs, row), described=f"the image of {pairs.keys[row]}")
            note = "" if heat[row] else "This caption has no word of four letters."
            cards.append(Card(title=text, cells=(Pictures(title="image", pictures=(image,)), *heat[row]), note=note))
        explanation = (
            "Each word alone is masked, and told by the rest of the caption and the whole image; red is where it attends to"
            " in the last block. Full red is the largest weight of a picture, grey the smallest."
        )
        return Exhibit(title=WORDS, explanation=explanation, parts=(Part(cards=tuple(cards)),))

    def _tell_words(self, pairs: ShownPairs, chosen: Sequence[tuple[int, int]]) -> tuple[list[int], NDArray[np.float32]]:
        """A sequence for each masked word: the word that is told, and what it attends to of the patches (M, N)."""
        device = self.towers.image.cls_token.device
        rows, places = (np.array(each, np.int64) for each in zip(*chosen, strict=True))
        ids_ML = pairs.captions.token_ids_BL[torch.from_numpy(rows)].clone()
        lengths = [pairs.captions.lengths[row] for row in rows]
        text = pack_captions(ids_ML, lengths, device=device)
        ids_ML[torch.arange(len(rows)), torch.from_numpy(places)] = self.mask_id
        text = with_token_ids(text, ids_ML)
        tokens = 1 + self.grid[0] * self.grid[1]
        joint = join(text.layout, image_tokens=tokens, device=device)
        rows_M = torch.from_numpy(joint.rows_of_words(np.arange(len(rows)), places)).to(device)
        image_MPE = self.towers.image(pairs.images(device))[torch.from_numpy(rows).to(device)]
        text_TE = self.towers.text(text)
        assert self.encoder.word_head is not None
        told_M = self.encoder.word_head(self.encoder(image_MPE, text_TE, joint, rows_M=rows_M)).argmax(1).tolist()
        look_ML = self.encoder.attended(image_MPE, text_TE, joint, rows_M=rows_M)
        return told_M, look_ML[:, 1:tokens].float().cpu().numpy()

    def _long_words(self, pairs: ShownPairs, row: int) -> list[int]:
        """Places of some tokens that are words of their own."""
        ids_L = pairs.captions.token_ids_BL[row, : pairs.captions.lengths[row]]
        is_word = self.tokeniser.is_word(ids_L).tolist()
        words = [self.tokeniser.word_of(token) for token in ids_L.tolist()]
        long = [place for place, word in enumerate(words) if is_word[place] and word.isalpha() and len(word) >= LETTERS]
        return _some(long, NUM_WORDS)

    # -- pictures --------------------------------------------------------------------------------------------------------

    def _over_pixels(
        self, place_K: NDArray[np.int64], value_K: NDArray[np.int64], image_HWC: NDArray[np.uint8]
    ) -> NDArray[np.int64]:
        """(H, W): values of patches at their pixels, 0 elsewhere."""
        over_HW = np.zeros(image_HWC.shape[:2], np.int64)
        for place, value in zip(place_K, value_K, strict=True):
            left, top, right, bottom = self._box(int(place))
            over_HW[top:bottom, left:right] = value
        return over_HW

    def _box(self, place: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of a patch."""
        top, left = (step * self.telling.stride_px for step in divmod(place, self.grid[1]))
        return left, top, left + self.telling.patch_px, top + self.telling.patch_px

    def _outlined(self, image_HWC: NDArray[np.uint8], place: int) -> NDArray[np.uint8]:
        picture = Image.fromarray(image_HWC)
        left, top, right, bottom = self._box(place)
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), outline=(255, 0, 0), width=1)
        return np.asarray(picture)

    def _coloured(self, image_HWC: NDArray[np.uint8], labels_HW: NDArray[np.int64], share: float = 0.6) -> NDArray[np.uint8]:
        """The image in grey under the colours of its labels."""
        grey_HW1 = image_HWC.astype(np.float32).mean(2, keepdims=True)
        return ((1 - share) * grey_HW1 + share * _colours(len(self.telling.labels))[labels_HW]).round().astype(np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Masked:
    """The K masked patches of one image."""

    place_K: NDArray[np.int64]
    told_K: NDArray[np.int64]
    true_K: NDArray[np.int64]
    look_KL: NDArray[np.float32]

    @staticmethod
    def of(
        task: PatchTask, told_M: NDArray[np.int64], true_M: NDArray[np.int64], look_ML: NDArray[np.float32], own: slice
    ) -> _Masked:
        """Those of one image, which are `own` of all."""
        place_M = task.patch_M.cpu().numpy() % (task.masked_BP.shape[1] - 1)
        return _Masked(place_K=place_M[own], told_K=told_M[own], true_K=true_M[own], look_KL=look_ML[own])


def _read_maps(shown: ShownSplit, queries: Sequence[int], label_set: LabelSetName) -> tuple[Tensor | None, str]:
    """Label maps of the queries' images, (B, H, W) uint8; or None and why there are none."""
    source = shown.evaluation_set.source
    try:
        maps = [read_parsing(source, query, label_set=label_set) for query in queries]
    except ValueError as error:
        return None, f"Nothing is shown: {error}."
    return torch.stack([resize_map(labels_HW, image_px=shown.image_px) for labels_HW in maps]), ""


def _image(pairs: ShownPairs, row: int) -> NDArray[np.uint8]:
    return pairs.pixels_BCHW[row].permute(1, 2, 0).numpy()


def _share(part: int, whole: int) -> Number:
    return Number(value=float(part / max(1, whole)), percent=True)


def _some(values: Sequence[int] | NDArray[np.int64], number: int) -> list[int]:
    """At most so many of them, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(number, len(values))).astype(int)
    return [int(values[place]) for place in places]


def _colours(number: int) -> NDArray[np.float32]:
    """(number, 3) RGB of 0 to 255: black, then hues that lie far apart for neighbours."""
    hues = [colorsys.hsv_to_rgb((label * 0.618) % 1, 0.85, 1.0) for label in range(1, number)]
    return 255 * np.array([(0.0, 0.0, 0.0), *hues], np.float32)
