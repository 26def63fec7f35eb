"""A segmentation model of Hugging Face as a parser: any whose labels are those of a label set, whatever their order."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation, SegformerImageProcessor

from tbps.data.label_sets import LABEL_SETS, LabelSet
from tbps.data.parsing_cache import Manifest

# B images of a batch, C channels, H height, W width of the images, L labels

logger = logging.getLogger(__name__)

_OPENING = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError)
"""What transformers raises for a name or a folder that it cannot use."""
NAMES_SHOWN = 6


class SegmentationModel:
    """A model with its image processor on a device, in float32."""

    def __init__(self, name: str, device: torch.device) -> None:
        """`name`: of Hugging Face, or a local folder. ValueError: it is not there, is no such model, or knows no people."""
        self._device = device
        config = _opened(name, AutoConfig.from_pretrained)
        label_set, self._table = match_labels(getattr(config, "id2label", None) or {}, name)
        self._model, told = _opened(
            name, AutoModelForSemanticSegmentation.from_pretrained, dtype=torch.float32, output_loading_info=True
        )
        if missing := sorted(told["missing_keys"]):
            raise ValueError(
                f"parser {name} lacks {len(missing)} weights, such as {missing[0]}: it was not trained to its end for this;"
                " choose a model that was fine-tuned to parse people"
            )
        self._model.requires_grad_(False).eval().to(device)
        self._processor = _processor(name)
        self.manifest = Manifest(
            label_set=label_set.name,
            parser=Path(name).resolve().name if Path(name).exists() else name,
            parser_sha256=self._digest(),
        )

    def prepare(self, image_path: str, image_HWC: NDArray[np.uint8]) -> Tensor:
        """(C, h, w) float32 as the model's image processor makes it."""
        return self._processor(images=image_HWC, return_tensors="pt", input_data_format="channels_last")["pixel_values"][0]

    def parse(self, prepared: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        """See `Parser`. Logits are enlarged to the image before the largest is taken."""
        with torch.inference_mode():
            logits_BLhw = self._model(pixel_values=torch.stack(list(prepared)).to(self._device)).logits
            found = [_largest(logits_BLhw[row], size) for row, size in enumerate(sizes)]
        return [self._table[labels_HW.cpu().numpy()] for labels_HW in found]

    def _digest(self) -> str:
        """Of all that the maps depend on: weights, meaning of the outputs, image processor."""
        digest = hashlib.sha256(self._table.tobytes() + self._processor.to_json_string().encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()


def match_labels(labels: Mapping[Any, str], parser: str) -> tuple[LabelSet, NDArray[np.uint8]]:
    """The label set of these names, and (outputs,) the set's label of each output of the model.

    Names count, not numbers: small and capital letters, spaces and underscores are alike. ValueError: the names are of no
    label set.
    """
    names = [_plain(labels[number]) for number in sorted(labels, key=int)]
    for label_set in LABEL_SETS.values():
        if sorted(names) == sorted(label_set.labels):
            return label_set, np.array([label_set.number(name) for name in names], dtype=np.uint8)
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    sets = "; ".join(f"{len(one)} of {one.title} ({', '.join(one.labels[1:4])}, ...)" for one in LABEL_SETS.values())
    raise ValueError(
        f"parser {parser} knows {len(names)} labels ({shown}), expected those of people: {sets}; choose a model that parses"
        " people"
    )


def _plain(label: str) -> str:
    return "-".join(label.lower().replace("_", " ").replace("-", " ").split())


def _largest(logits_Lhw: Tensor, size: tuple[int, int]) -> Tensor:
    logits_LHW = torch.nn.functional.interpolate(logits_Lhw[None], size=size, mode="bilinear", align_corners=False)[0]
    return logits_LHW.argmax(dim=0)


def _processor(name: str) -> Any:
    try:
        return AutoImageProcessor.from_pretrained(name)
    except _OPENING:
        processor = SegformerImageProcessor()
        logger.warning("parser %s brings no image processor: images are made %s, as SegFormer's", name, processor.size)
        return processor


def _opened(name: str, open_it: Any, **options: Any) -> Any:
    try:
        return open_it(name, **options)
    except _OPENING as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"parser {name} cannot be opened ({why}); give a segmentation model of people by its Hugging Face name or"
            " folder, or a folder of SCHP's maps: schp-atr:FOLDER"
        ) from error
