"""What a method does besides ranking, seen on the pairs of an evaluation, for the report."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tbps.config.data import Pixels
from tbps.data.pairs import EvaluationSet
from tbps.methods.albef.aga import AgaMethod
from tbps.methods.albef.laip import LaipMethod
from tbps.methods.albef.mars import MarsMethod
from tbps.reporting.masked_words import write_masked_words
from tbps.reporting.phrase_maps import write_phrase_maps
from tbps.reporting.reconstruct import reconstruct
from tbps.reporting.reconstructions import write_reconstructions
from tbps.text.captions import CaptionEncoder


def write_examples(
    run_folder: Path,
    name: str,
    method: nn.Module,
    evaluation_set: EvaluationSet,
    encoder: CaptionEncoder,
    *,
    image_px: tuple[int, int],
    pixels: Pixels,
) -> None:
    """Write into `report/` what this method has to show: MARS rebuilt pictures, AGA masked words, LAIP what its
    phrases look at; others nothing.

    name: the stem of the results file that it belongs to.
    """
    if isinstance(method, MarsMethod) and method.mae_decoder is not None:
        rebuilt = reconstruct(method, evaluation_set, encoder, image_px=image_px, pixels=pixels)
        write_reconstructions(run_folder, name, rebuilt)
    if isinstance(method, AgaMethod) and method.mrtd_head is not None:
        write_masked_words(run_folder, name, method, evaluation_set, encoder, image_px=image_px, pixels=pixels)
    if isinstance(method, LaipMethod) and method.weights["bidir"]:
        write_phrase_maps(run_folder, name, method, evaluation_set, encoder, image_px=image_px, pixels=pixels)
