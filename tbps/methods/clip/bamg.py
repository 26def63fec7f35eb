"""BAMG: CLIP's towers, a bottleneck fusion behind them, and the graph of a body whose masked part is guessed.

    L = ITC(v, t) + ITM + alpha MGM + beta MLM                                                     (Eq. 23)

v, t: the image's [CLS] and the caption's end token, each through a linear layer of its own, as unit rows. All projected
tokens of both towers meet in the fusion (tbps/nn/bottleneck_fusion.py, Eq. 1-9), behind which pairs are matched, masked
words are guessed and the graph of the body (tbps/methods/clip/masked_graph.py, Eq. 10-15) is rebuilt.
Source: BAMG (Cheng, Zou, Gu, Ouyang: Text-based Person Re-identification via Bottlenecks Attention and Masked Graph
Modeling). There is no public code. What the paper leaves open is a setting (tbps/config/methods/bamg.py), or decided here:

- ITC: all pairs of the whole batch, an image's positives are all captions of its person; the linear layers start as the
  identity; T is learned, starts at 0.07 and is kept inside 0.01 to 0.5.
- ITM: negatives are of the pair's group, of another identity; one logit of [CLS | end token] (Eq. 18: of [CLS]) by a layer
  of GELU; Eq. 20 is misprinted.
- Parts: Pascal-Person-Part's labels, arms and legs of upper and lower halves, left and right of the image as the torso's
  middle divides it. Labels of clothes would leave arms and legs of dressed people empty. Erased pixels show no part.
- X: mean of a part's projected patches, by pixels, without gradient; a part that is not seen is a learned vector, never
  masked and never compared. The masked part is a learned vector, one for each part. Each patch is joined to the mean of the
  features of what its pixels show; [CLS] and background, to the mean of the graph.
- F: the same graph network on the unmasked graph, layer-normalised, without gradient. The squared error is a mean over
  features, then over an image's parts, then over images.
- The patches of the masked part are hidden from the fusion by a learned vector; CLIP's other tokens have seen them.
- A search needs no map: images enter the fusion without a graph, and by default so they do in training, but where the graph
  is guessed.
- MLM: 15 % of words, 80/10/10, in captions of their own, guessed from the text stream; mean over masked words.
- Both streams end in a layer norm, which the paper does not print.

Shapes: B pairs, G pairs of the whole batch, E features, P image tokens, C = B or 2B captions (own, masked), L tokens of the
longest, N packed tokens, X rows of the fusion, R rows that are wanted of it, K parts, M masked words, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from tbps.config.methods.bamg import LARGEST_TEMPERATURE, LEAST_TEMPERATURE, Bamg
from tbps.data.batch import Batch, Draws
from tbps.data.shown_pairs import ShownPairs, ShownSplit
from tbps.methods.clip.bamg_exhibits import GRAPH_TITLE, NUM_PAIRS, read_maps, show_graphs, show_parameters, show_words
from tbps.methods.clip.fusion_building import build_fusion
from tbps.methods.clip.fusion_matcher import FusionMatcher, MatchHead
from tbps.methods.clip.fusion_rows import Encoded, Negatives, Shown, WordTask, choose_negatives, choose_words, pair_up
from tbps.methods.clip.global_matching import unit
from tbps.methods.clip.masked_graph import GraphTask, MaskedGraph, read_bodies
from tbps.methods.clip.towers import build_towers
from tbps.methods.exhibit import Exhibit
from tbps.methods.method import EmbeddedCaptions, EmbeddedImages, LossesAndNumbers, Method
from tbps.nn.body_graph import edges
from tbps.nn.bottleneck_fusion import BottleneckFusion, CrossFusion, Fused
from tbps.nn.clip_text import PackedText, pack_captions
from tbps.nn.clip_towers import ClipTowers
from tbps.nn.cross_former import WordHead
from tbps.objectives.batch_contrast import batch_contrast, bounded
from tbps.objectives.guessed_words import guessed_words_loss
from tbps.objectives.itm import binary_matching_loss
from tbps.objectives.masked_graph import masked_graph_loss, target_variance
from tbps.objectives.sdm import identity_distribution
from tbps.text.token_batch import Captions


class BamgMethod(Method):
    """Losses: itc, itm, mgm, mlm; each only where it has a weight."""

    encoders = ("towers.image", "towers.text")

    def __init__(
        self,
        *,
        towers: ClipTowers,
        features: int,
        weights: Mapping[str, float],
        temperature: float,
        train_positions: bool,
        fusion: BottleneckFusion | CrossFusion | None,
        word_head: WordHead | None,
        body_graph: MaskedGraph | None,
        graph_in_all: bool,
        masked_part_alone: bool,
        patch_px: int,
        stride_px: int,
        negatives: Literal["hardest", "sampled"],
        caption_negatives: bool,
        mask_id: int,
        mlm_probability: float,
    ) -> None:
        """graph_in_all: every fused image holds the masked graph; masked_part_alone: only its guess counts."""
        super().__init__(weights=weights)
        self.unfrozen = ("towers.image.positions",) if train_positions else ()
        self.graph_in_all, self.masked_part_alone = graph_in_all, masked_part_alone
        self.patch_px, self.stride_px = patch_px, stride_px
        self.negatives, self.caption_negatives = negatives, caption_negatives
        self.mask_id, self.mlm_probability = mask_id, mlm_probability
        self.towers = towers
        self.image_head, self.caption_head = _identity(features), _identity(features)
        self.temperature = nn.Parameter(torch.tensor(temperature))
        self.fusion, self.word_head, self.body_graph = fusion, word_head, body_graph
        self.match_head: MatchHead | None = None if fusion is None else MatchHead(features)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.temperature.device

    # -- training ------------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch, draws: Draws) -> LossesAndNumbers:
        """Named losses, and numbers for the log; see tbps/methods/method.py."""
        words = self._word_task(batch.own, draws)
        encoded = self._encode(batch.image_BCHW, batch.own, words)
        end_CE = encoded.text_CLE.gather(1, encoded.end_C[:, None, None].expand(-1, 1, encoded.text_CLE.shape[2]))[:, 0]
        rows = self._rows(encoded.image_BPE[:, 0], end_CE[: batch.num_pairs], words)
        whole = batch.scope.whole(rows)
        temperature = bounded(self.temperature, least=LEAST_TEMPERATURE, most=LARGEST_TEMPERATURE)
        target_GG = identity_distribution(batch.scope.identity_G)
        losses = {"itc": batch_contrast(whole["image"], whole["caption"], target_GG, scale=1 / temperature)}
        numbers = {"temperature": temperature.detach()}
        if self.fusion is not None:
            negatives = choose_negatives(
                batch,
                draws,
                rows["image"],
                rows["caption"],
                temperature=temperature,
                how=self.negatives,
                captions=self.caption_negatives,
            )
            # The loop averages over the shares of a batch, each of which adds its own words.
            words_over = whole["masked_words"].sum() / batch.scope.shares if words is not None else 1.0
            more = self._behind_fusion(batch, draws, encoded, words, negatives, words_over)
            losses, numbers = losses | more[0], numbers | more[1]
        return losses, numbers

    def contrast_rows(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """The rows that `forward` gives to `batch.scope.whole`, computed without anything else."""
        return self._rows(
            self.towers.image(batch.image_BCHW, pooled=True),
            self.towers.text(self._pack(batch.own), pooled=True),
            self._word_task(batch.own, draws),
        )

    def _rows(self, image_BE: Tensor, caption_BE: Tensor, words: WordTask | None) -> dict[str, Tensor]:
        """What the whole batch must know of each pair: its unit features, and how many of its words are masked."""
        rows = {"image": unit(self.image_head(image_BE)), "caption": unit(self.caption_head(caption_BE))}
        return rows if words is None else rows | {"masked_words": words.count_B}

    def _word_task(self, captions: Captions, draws: Draws) -> WordTask | None:
        """Choose which words are masked; None where the method guesses no words."""
        if self.word_head is None:
            return None
        return choose_words(
            captions, draws["mlm"], mask_id=self.mask_id, probability=self.mlm_probability, device=self.device
        )

    def _encode(self, image_BCHW: Tensor, captions: Captions, words: WordTask | None = None) -> Encoded:
        """Run both towers; the text tower reads own and masked captions in one pass."""
        ids_CL, lengths = captions.token_ids_BL, captions.lengths
        if words is not None:
            ids_CL, lengths = torch.cat([ids_CL, words.token_ids_BL]), (*lengths, *lengths)
        packed = pack_captions(ids_CL, lengths, device=self.device)
        text_NE, grid_CL = self.towers.text(packed), packed.packing.grid_SL
        return Encoded(
            image_BPE=self.towers.image(image_BCHW),
            text_CLE=text_NE.index_select(0, grid_CL.flatten()).unflatten(0, grid_CL.shape),
            bias_C11L=packed.packing.key_bias_SL,
            end_C=packed.end_B - packed.packing.first_S,
        )

    def _behind_fusion(
        self,
        batch: Batch,
        draws: Draws,
        encoded: Encoded,
        words: WordTask | None,
        negatives: Negatives,
        words_over: Tensor | float,
    ) -> LossesAndNumbers:
        """Losses, and numbers for the log, of what lies behind the fusion."""
        assert self.fusion is not None
        graph = self._graph(batch, draws, encoded.image_BPE)
        in_all = graph is not None and self.graph_in_all
        text_CXE = self.fusion.begin_text(encoded.text_CLE, encoded.bias_C11L)
        image_BXE = self.fusion.begin_image(graph.image_BXE if graph is not None and in_all else encoded.image_BPE)
        shown = pair_up(encoded, negatives, words)
        fused = self._fuse(image_BXE, text_CXE, encoded.bias_C11L, shown, image_rows=None if in_all else 1)
        losses, numbers = self._match(batch, fused, shown.num_matched, negatives)
        if words is not None:
            self._guess_words(fused.text[shown.num_matched :], words, words_over, losses, numbers)
        if graph is not None:
            if not in_all:
                own = Shown.own(encoded, batch.num_pairs)
                image_BXE = self.fusion.begin_image(graph.image_BXE)
                fused = self._fuse(image_BXE, text_CXE, encoded.bias_C11L, own, image_rows=None)
            self._guess_graph(batch, fused.image[: batch.num_pairs], graph, losses, numbers)
        return losses, numbers

    def _match(self, batch: Batch, fused: Fused, num_matched: int, negatives: Negatives) -> LossesAndNumbers:
        assert self.match_head is not None
        logit_R = self.match_head(Fused(image=fused.image[:num_matched], text=fused.text[:num_matched]))
        loss = binary_matching_loss(logit_R, has_negative_B=negatives.has_B, group_pairs=batch.group_pairs)
        seen_R = logit_R.detach()
        numbers = {
            "pairs_matched": 100 * (seen_R[: batch.num_pairs] > 0).float().mean(),
            "negatives_refused": 100 * (seen_R[batch.num_pairs :] <= 0).float().mean(),
        }
        return {"itm": loss}, numbers

    def _guess_words(
        self,
        text_BRE: Tensor,
        words: WordTask,
        words_over: Tensor | float,
        losses: dict[str, Tensor],
        numbers: dict[str, Tensor],
    ) -> None:
        assert self.word_head is not None
        logit_MV = self.word_head(text_BRE.flatten(0, 1).index_select(0, words.real_M))
        losses["mlm"] = guessed_words_loss(logit_MV, words.word_M, mean_over=words_over)
        numbers["words_guessed"] = 100 * (logit_MV.detach().argmax(1) == words.word_M).sum() / words_over

    def _guess_graph(
        self,
        batch: Batch,
        image_BXE: Tensor,
        graph: GraphTask,
        losses: dict[str, Tensor],
        numbers: dict[str, Tensor],
    ) -> None:
        assert self.body_graph is not None
        bodies = graph.bodies
        guess_BKE = self.body_graph.guess(image_BXE, bodies)
        counted_BK = bodies.masked_BK if self.masked_part_alone else bodies.present_BK
        losses["mgm"] = masked_graph_loss(guess_BKE, graph.target_BKE, counted_BK)
        numbers["mgm_of_masked"] = masked_graph_loss(guess_BKE, graph.target_BKE, bodies.masked_BK).detach()
        groups = zip(graph.target_BKE.split(batch.group_pairs), bodies.present_BK.split(batch.group_pairs), strict=True)
        numbers["mgm_target_variance"] = torch.stack([target_variance(*group) for group in groups]).mean()

    def _graph(self, batch: Batch, draws: Draws, image_BPE: Tensor) -> GraphTask | None:
        """Mask a part of each body and put the graph into the image tokens; None where the method guesses no graph."""
        if self.body_graph is None:
            return None
        bodies = read_bodies(
            batch.fields["parsing_pascal"],
            draws["masked_part"][:, 0],
            patch_px=self.patch_px,
            stride_px=self.stride_px,
            erased_BHW=batch.erased_BHW,
        )
        image_BXE, target_BKE = self.body_graph(image_BPE, bodies)
        return GraphTask(bodies=bodies, image_BXE=image_BXE, target_BKE=target_BKE)

    def _fuse(
        self, image_BXE: Tensor, text_CXE: Tensor, bias_C11L: Tensor | None, shown: Shown, *, image_rows: int | None
    ) -> Fused:
        """Fuse pairs: each sequence is one of the begun images with one of the begun captions, as `shown` says."""
        assert self.fusion is not None
        return self.fusion(
            image_BXE.index_select(0, shown.image_S),
            text_CXE.index_select(0, shown.caption_S),
            None if bias_C11L is None else bias_C11L.index_select(0, shown.caption_S),
            image_rows=image_rows,
            text_rows=shown.row_SR,
        )

    # -- evaluation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def embed_images(self, image_BCHW: Tensor) -> EmbeddedImages:
        """Unit features and, where there is a matcher, what the fusion computes of an image before it meets a caption."""
        if self.fusion is None:
            return EmbeddedImages(feature_IE=unit(self.image_head(self.towers.image(image_BCHW, pooled=True))))
        image_BPE = self.towers.image(image_BCHW)
        if self.body_graph is not None and self.graph_in_all:
            seen_BPE = self.body_graph.without_graph(image_BPE)
        else:
            seen_BPE = image_BPE
        feature_IE = unit(self.image_head(image_BPE[:, 0]))
        return EmbeddedImages(feature_IE=feature_IE, tokens_IPD=self.fusion.begin_image(seen_BPE))

    @torch.no_grad()
    def embed_captions(self, captions: Captions) -> EmbeddedCaptions:
        """Unit features and, where there is a matcher, all projected tokens of the captions."""
        packed = self._pack(captions)
        if self.fusion is None:
            return EmbeddedCaptions(feature_QE=unit(self.caption_head(self.towers.text(packed, pooled=True))))
        text_NE = self.towers.text(packed)
        feature_QE = unit(self.caption_head(text_NE.index_select(0, packed.end_B)))
        return EmbeddedCaptions(feature_QE=feature_QE, hidden_ND=text_NE)

    def embed_padded(self, token_id_BL: Tensor, length_B: Tensor) -> Tensor:
        """See tbps/methods/method.py."""
        return unit(self.caption_head(self.towers.text.embed_padded(token_id_BL, length_B)))

    def matcher(self) -> FusionMatcher | None:
        """The matching head behind the fusion; it reads no parsing map."""
        if self.fusion is None or self.match_head is None:
            return None
        return FusionMatcher(fusion=self.fusion, head=self.match_head, device=self.device)

    # -- report --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def exhibits(self, shown: ShownSplit) -> list[Exhibit]:
        """What is trained; what words see, where there is a fusion; graphs of bodies, where they are guessed."""
        found = [show_parameters(self, (*self.encoders, "fusion", "body_graph", "match_head", "word_head"))]
        if self.fusion is None:
            return found
        queries = shown.spread(NUM_PAIRS)
        pairs = shown.read(queries)
        encoded = self._encode(pairs.images(self.device), pairs.captions)
        image_BPE = encoded.image_BPE
        if self.body_graph is not None and self.graph_in_all:
            image_BPE = self.body_graph.without_graph(image_BPE)
        seen_BLP = self.fusion.looks(image_BPE, encoded.text_CLE, encoded.bias_C11L)
        bottleneck = isinstance(self.fusion, BottleneckFusion)
        through = "through the fusion tokens" if bottleneck else "by attention to the image's tokens"
        grid = self.towers.image.grid
        words = show_words(pairs, shown.encoder.tokeniser, seen_BLP[..., 1:], grid=grid, through=through)
        return [words, *self._graph_exhibit(shown, queries, pairs, encoded), *found]

    def _graph_exhibit(self, shown: ShownSplit, queries: list[int], pairs: ShownPairs, encoded: Encoded) -> list[Exhibit]:
        """Nothing where no graph is guessed; one that says why where the split has no parsing maps."""
        if self.body_graph is None or self.fusion is None:
            return []
        try:
            map_BHW = read_maps(shown, queries).to(self.device)
        except ValueError as error:
            return [Exhibit(title=GRAPH_TITLE, explanation=f"Not drawn: {error}.")]
        number = len(queries)
        uniform_B = (torch.arange(number) + 0.5) / number  # each another part, as far as there are parts
        bodies = read_bodies(map_BHW, uniform_B, patch_px=self.patch_px, stride_px=self.stride_px)
        image_BXE, target_BKE = self.body_graph(encoded.image_BPE, bodies)
        fused = self._fuse(
            self.fusion.begin_image(image_BXE),
            self.fusion.begin_text(encoded.text_CLE, encoded.bias_C11L),
            encoded.bias_C11L,
            Shown.own(encoded, number),
            image_rows=None,
        )
        guess_BKE = self.body_graph.guess(fused.image, bodies)
        error_BK = (guess_BKE.float() - target_BKE.float()).square().mean(2)
        joined = edges(self.body_graph.adjacency)
        return [show_graphs(pairs, bodies, error_BK, grid=self.towers.image.grid, edges=joined)]

    def _pack(self, captions: Captions) -> PackedText:
        return pack_captions(captions.token_ids_BL, captions.lengths, device=self.device)


def build(config: Bamg, *, image_px: tuple[int, int]) -> BamgMethod:
    """The method with random weights."""
    towers, graph = config.towers, config.graph
    weights = config.weights.by_name()
    body_graph = None
    if "mgm" in weights:
        body_graph = MaskedGraph(
            width=towers.features,
            layers=graph.layers,
            adjacency=graph.adjacency,
            reads=graph.reads,
            hide_masked=graph.hide_masked,
            target=graph.target,
            target_norm=graph.target_norm,
            target_gradient=graph.target_gradient,
        )
    word_head = None
    if "mlm" in weights:
        vocabulary_size = towers.text.vocabulary_size
        word_head = WordHead(width=towers.features, vocabulary_size=vocabulary_size, layers=config.fusion_layers)
    return BamgMethod(
        towers=build_towers(towers, image_px=image_px),
        features=towers.features,
        weights=weights,
        temperature=config.temperature,
        train_positions=config.train_positions,
        fusion=build_fusion(config) if "itm" in weights else None,
        word_head=word_head,
        body_graph=body_graph,
        graph_in_all=graph.shown_to == "all",
        masked_part_alone=graph.counted == "masked",
        patch_px=towers.image.patch_px,
        stride_px=towers.image.step_px,
        negatives=config.negatives,
        caption_negatives=config.caption_negatives,
        mask_id=config.mask_id,
        mlm_probability=config.mlm_probability,
    )


def _identity(width: int) -> nn.Linear:
    """A linear layer that changes nothing at first."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
