"""LAIP's phrases one at a time: what they see in their image, and the losses, as loops written from the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tiny_methods import BERT, GROUP_PAIRS, LAIP
from torch import Tensor

from tbps.config.methods.laip import Laip
from tbps.data.batch import Batch, Draws
from tbps.methods.albef.cross_calls import CrossSequences, cross_encode, sequences
from tbps.nn.packing import lay_out

CROSS_LAYERS = 4
DEEP = replace(LAIP, bert=replace(BERT, layers=1 + CROSS_LAYERS), attention_layer=2)
ONE = torch.device("cpu")


@dataclass
class Phrase:
    """One phrase by itself."""

    caption: int
    ids: list[int]
    place: int
    """Of the masked word."""


def phrases_of(batch: Batch, draws: Draws) -> list[Phrase]:
    """Of a batch, in its order."""
    found = []
    for caption, chunks in enumerate(batch.own.chunk_id_BL.tolist()):
        for number in sorted(set(chunks) - {0}):
            tokens = [place for place, chunk in enumerate(chunks) if chunk == number]
            ids = [BERT.cls_id, *(int(batch.own.token_ids_BL[caption, place]) for place in tokens)]
            found.append(Phrase(caption, ids, 1 + int(draws["phrase_word"][caption, 0, tokens[0]] * len(tokens))))
    return found


def text_states(method: Any, ids: list[int]) -> Tensor:
    """What the text encoder makes of these ids alone (L, D)."""
    text, packing = method.online.text_encoder, lay_out([len(ids)]).to(ONE)
    states: Tensor = text.encode_text(text.embed(torch.tensor(ids), packing), packing)
    return states


def cross_states(
    method: Any, x_LD: Tensor, image_PD: Tensor, *, layer: int, bump: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The cross encoder by whole attention maps; `bump` is added to the [CLS] row of the watched layer's map (H, P)."""
    text, packing = method.online.text_encoder, lay_out([len(x_LD)]).to(ONE)
    watched = torch.zeros(())
    for number, block in enumerate(text.layers[text.fusion_layer :], start=1):
        cross = block.cross_attention
        x_LD = block.self_attention(x_LD, packing)
        query = cross.query(x_LD).view(len(x_LD), cross.heads, -1)
        key, value = (part.view(len(image_PD), cross.heads, -1) for part in cross.key_value(image_PD).chunk(2, dim=1))
        attention = (torch.einsum("lhd,phd->hlp", query, key) / math.sqrt(query.shape[-1])).softmax(-1)
        if number == layer:
            watched = attention
            if bump is not None:
                attention = attention.clone()
                attention[:, 0] += bump
        context = torch.einsum("hlp,phd->lhd", attention, value).flatten(1)
        x_LD = block.feed_forward(cross.norm(cross.out(context) + x_LD), packing.all)
    return x_LD, watched


def score_of(
    method: Any, phrase: Phrase, image_PD: Tensor, *, layer: int, bump: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Word logits at the masked word, the true word's logit, and the watched map."""
    ids = list(phrase.ids)
    ids[phrase.place] = BERT.mask_id
    states, attention = cross_states(method, text_states(method, ids), image_PD, layer=layer, bump=bump)
    logits = method.online.word_logits(states[phrase.place][None])[0]
    return logits, logits[phrase.ids[phrase.place]], attention


def looks_of(method: Any, batch: Batch, draws: Draws, layer: int) -> tuple[Any, Any]:
    """Forward and backward attention (M, P) as the method finds them."""
    phrases = method.read_phrases(batch, draws)
    token_BPD = method.online.image_encoder(batch.image_BCHW)
    count = len(phrases.table.caption_M)
    shown = sequences(phrases.packed, offset=0, image=phrases.table.caption_M, caption=np.arange(count, 2 * count))
    crossed = cross_encode(
        method.online.text_encoder,
        ids_N=phrases.packed.token_id_N,
        hidden_ND=phrases.hidden_ND,
        image_IPD=token_BPD,
        shown=CrossSequences.join([shown]),
        record_layer=layer,
    )
    looks = method.look(phrases, crossed)
    by_image = phrases.per_image.all.by_image
    return tuple(x.flatten(0, 1).index_select(0, by_image.place_N) for x in (looks.forward_IQP, looks.backward_IQP))


def naive_local_losses(method: Any, batch: Batch, draws: Draws, config: Laip) -> dict[str, Tensor]:
    """Eq. 4 to 11, phrase by phrase, group by group."""
    tokens_BPD = method.online.image_encoder(batch.image_BCHW)
    phrases = phrases_of(batch, draws)
    masked_losses, seen, said = [], [], []
    for phrase in phrases:
        image_PD = tokens_BPD[phrase.caption]
        logits, score, attention = score_of(method, phrase, image_PD, layer=config.attention_layer)
        masked_losses.append(-logits.log_softmax(0)[phrase.ids[phrase.place]])
        forward = attention[:, 0, 1:].mean(0)
        (slope,) = torch.autograd.grad(score, attention, retain_graph=True)
        backward = slope[:, 0, 1:].mean(0).clamp(min=0)
        if not backward.any():  # no patch would help
            backward = torch.ones_like(backward)
        weight = {"forward": forward, "backward": backward, "both": forward * backward}[config.attention]
        if config.attention == "both" and config.combination == "sum":
            weight = forward / forward.sum() + backward / backward.sum()
        guided = (weight / weight.sum()) @ image_PD[1:]
        seen.append(F.normalize(method.online.image_projection(guided), dim=0))
        said.append(F.normalize(method.online.text_projection(text_states(method, phrase.ids)[0]), dim=0))
    contrasts = []
    for m, phrase in enumerate(phrases):
        others = [
            n
            for n, other in enumerate(phrases)
            if other.caption // GROUP_PAIRS == phrase.caption // GROUP_PAIRS
            and batch.identity_B[other.caption] != batch.identity_B[phrase.caption]
            and other.ids != phrase.ids
        ]
        for one, candidates in ((seen[m], said), (said[m], seen)):
            row = torch.stack([one @ candidates[n] for n in (m, *others)]) / method.temperature
            contrasts.append(-row.log_softmax(0)[0] / 2)
    zero = torch.zeros(())
    return {"mpm": sum(masked_losses, zero) / batch.num_pairs, "bidir": sum(contrasts, zero) / batch.num_pairs}
