"""Every numeric setting has a range that is checked; settings that do not fit each other are named."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from recipes import aga, albef, aptm, bilma, clip, irra, laip, mars, pretrain_coco, pretrain_mals, rasa
from tbps.config.data import Captioning
from tbps.config.encoders import Bert, MaeDecoder, Vit
from tbps.config.methods.aga import Aga
from tbps.config.methods.albef import AlbefWeights
from tbps.config.methods.laip import LaipWeights
from tbps.config.methods.mars import Mars, MarsWeights
from tbps.config.needs import Needs
from tbps.config.optim import Optimiser, Rule
from tbps.config.ranges import Range, ranges_of
from tbps.config.run import Run
from tbps.config.schedule import Schedule

RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        *(aga, albef, aptm, bilma, clip, irra, laip, mars, rasa),
        *(pretrain_coco, pretrain_mals),
    )
}


def parts_of(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The config and all configs in it, with the path that messages use."""
    yield path, config
    for field in fields(config):
        value = getattr(config, field.name)
        for part in value if isinstance(value, tuple) else (value,):
            if is_dataclass(part):
                yield from parts_of(part, f"{path}.{field.name}".removeprefix("."))


def is_numeric(hint: Any) -> bool:
    """Whether a field holds numbers."""
    if get_origin(hint) in (tuple, UnionType):
        return any(is_numeric(item) for item in get_args(hint))
    return hint in (int, float)


NUMERIC = {
    (path, type(part), field.name): (part, get_type_hints(type(part))[field.name])
    for recipe in RECIPES.values()
    for path, part in parts_of(recipe.tiny())
    for field in fields(part)
    if is_numeric(get_type_hints(type(part))[field.name])
}
"""All numeric fields of all methods' runs, each in a config in which everything fits."""


def outside(allowed: Range, *, whole: bool) -> list[float]:
    """Values just beyond each bound, and those that are no numbers."""
    found: list[float] = [] if whole else [math.nan, math.inf, -math.inf]
    step = 1 if whole else 1e-6
    found += [bound - step for bound in (allowed.low,) if bound is not None]
    found += [bound + step for bound in (allowed.high,) if bound is not None]
    found += [bound for bound in (allowed.above, allowed.below) if bound is not None]
    return found


def test_there_are_as_many_numbers_as_there_should_be() -> None:
    assert len(NUMERIC) > 90
    assert {"Aga", "Albef", "Clip", "Laip", "Mars", "Rasa"} <= {kind.__name__ for _, kind, _ in NUMERIC}


@pytest.mark.parametrize(("path", "kind", "name"), NUMERIC, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_number_out_of_its_range_is_refused(path: str, kind: type, name: str) -> None:
    part, hint = NUMERIC[path, kind, name]
    allowed = ranges_of(kind).get(name)
    assert allowed is not None, f"{path}.{name} has no range"
    value = getattr(part, name)
    wrong = outside(allowed, whole=hint is int or (isinstance(value, tuple) and isinstance(value[0], int)))
    assert wrong, f"the range of {path}.{name} holds everything"
    for one in wrong:
        given: Any = (value[0], one) if isinstance(value, tuple) else one
        with pytest.raises(ValueError, match=rf"^{path}\.{name} is .*, expected {re.escape(str(allowed))}"):
            replace(part, **{name: given})


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_fits(recipe: str) -> None:
    for variant in RECIPES[recipe].VARIANTS.values():
        assert isinstance(variant(), Run)


def test_bounds_in_words() -> None:
    assert str(Range(0, 1)) == "0 to 1"
    assert str(Range(0, below=1)) == "at least 0 and below 1"
    assert str(Range(above=0)) == "more than 0"
    assert str(Range(above=0, high=1)) == "more than 0 and at most 1"


def tiny_mars(**changes: Any) -> Run:
    """MARS's tiny with other parts."""
    return replace(mars.tiny(), **changes)


def mars_with(**changes: Any) -> Run:
    """MARS's tiny with another method."""
    return tiny_mars(method=replace(mars.tiny().method, **changes))


def captioning(**changes: Any) -> Run:
    """MARS's tiny with other captions."""
    data = mars.tiny().data
    return tiny_mars(data=replace(data, captioning=replace(data.captioning, **changes)))


def aga_without_words() -> Run:
    """More candidates than words."""
    run = aga.tiny()
    assert isinstance(run.method, Aga)
    return replace(run, method=replace(run.method, candidates=601))


@dataclass(frozen=True, kw_only=True, slots=True)
class Unpaired(Mars):
    """MARS, if it made nothing of weak positives."""

    def needs(self, image_px: tuple[int, int]) -> Needs:
        """As MARS's without them."""
        return replace(Mars.needs(self, image_px), weak_positives=False)


def unpaired() -> Run:
    """MARS's tiny, which swaps a tenth of all captions."""
    method = mars.tiny().method
    return tiny_mars(method=Unpaired(**{field.name: getattr(method, field.name) for field in fields(method)}))


UNFIT = {
    "width and heads": (
        lambda: Vit(width=64, heads=3),
        "method.vit.width is 64, expected a multiple of method.vit.heads (3); change one of them",
    ),
    "text width and heads": (
        lambda: Bert(width=64, heads=5),
        "method.bert.width is 64, expected a multiple of method.bert.heads (5); change one of them",
    ),
    "no cross layer": (
        lambda: Bert(layers=6, fusion_layer=6),
        "method.bert.fusion_layer is 6, expected at most 5 of 6 layers: the matching head sees the image only through the",
    ),
    "fewer layers than text layers": (
        lambda: Bert(layers=6, fusion_layer=7, full_cross_attention=True),
        "method.bert.fusion_layer is 7, expected at most 6 of 6 layers",
    ),
    "[MASK] outside the vocabulary": (
        lambda: Bert(vocabulary_size=103),
        "method.bert.mask_id is 103, expected less than method.bert.vocabulary_size (103)",
    ),
    "one id for two": (lambda: Bert(cls_id=103), "method.bert.cls_id and method.bert.mask_id are both 103"),
    "no loss": (
        lambda: AlbefWeights(itc=0, itm=0),
        "every weight in method.weights (itc, itm) is 0, expected at least one loss to train by",
    ),
    "LAIP without matching": (lambda: LaipWeights(itm=0), "method.weights.itm is 0, expected more than 0"),
    "patches and image": (
        lambda: tiny_mars(data=replace(mars.tiny().data, image_px=(64, 30))),
        "data.image_px is 64 30, expected multiples of method.vit.patch_px (8): the rest of an image would not be seen",
    ),
    "decoder's heads": (
        lambda: mars_with(mae=MaeDecoder(heads=5)),
        "method.vit.width is 64, expected a multiple of method.mae.heads (5); change one of them",
    ),
    "no patch is kept": (
        lambda: mars_with(mae=MaeDecoder(heads=2, mask_ratio=0.99)),
        "method.mae.mask_ratio is 0.99, which keeps 0 of 32 patches; expected at least one kept and one removed",
    ),
    "no patch is removed": (lambda: mars_with(mae=MaeDecoder(heads=2, mask_ratio=1e-17)), "which keeps 32 of 32 patches"),
    "tokens and positions": (
        lambda: captioning(max_tokens=97),
        "data.captioning.max_tokens is 97, expected at most 96, the longest caption that the text encoder reads"
        " (method.bert); change one of them",
    ),
    "training tokens and positions": (
        lambda: captioning(max_training_tokens=97),
        "data.captioning.max_training_tokens is 97, expected at most 96, the longest caption that",
    ),
    "the start token alone": (
        lambda: Captioning(vocabulary="v", max_words=1, max_tokens=2, max_training_tokens=1),
        "data.captioning.max_training_tokens is 1, expected at least 2: a start token and one piece; or 0",
    ),
    "candidates and words": (
        aga_without_words,
        "method.candidates is 601, expected at most method.bert.vocabulary_size (600)",
    ),
    "a floor above the rate": (
        lambda: tiny_mars(optim=replace(mars.tiny().optim, lr=1e-6)),
        "schedule.min_lr is 1e-05, expected at most optim.lr (1e-06): the rate would rise; change one of them",
    ),
    "a warm-up from above": (
        lambda: tiny_mars(schedule=replace(mars.tiny().schedule, warmup_lr=0.1)),
        "schedule.warmup_lr is 0.1, expected at most optim.lr (0.002): the rate would fall in the warm-up",
    ),
    "a floor above a rule's rate": (
        lambda: tiny_mars(optim=Optimiser(lr=2e-3, rules=(Rule(pattern="prd_head", factor=1e-3),))),
        "schedule.min_lr is 1e-05, expected at most optim.lr times optim.rules.0.factor (2e-06): the rate would rise",
    ),
    "a warm-up in epochs from above": (
        lambda: tiny_mars(schedule=Schedule(epochs=2, warmup_epochs=1, warmup_lr=0.1)),
        "schedule.warmup_lr is 0.1, expected at most optim.lr (0.002): the rate would fall in the warm-up",
    ),
    "weak positives that the method makes nothing of": (
        unpaired,
        "data.weak_positive_probability is 0.1, and Unpaired makes nothing of a caption that was swapped for another;",
    ),
    "re-ranking by a head that nothing trains": (
        lambda: mars_with(weights=MarsWeights(pitm=0)),
        "method.weights.pitm is 0, and evaluation.rerank_k 4 ranks by the matching head, which that loss alone trains; set",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_settings_that_do_not_fit_are_named(name: str) -> None:
    make, sentence = UNFIT[name]
    with pytest.raises(ValueError) as raised:
        make()
    assert sentence in str(raised.value)


@pytest.mark.parametrize("full_cross_attention", [True, False])
def test_all_layers_may_be_text_layers_where_all_see_the_image(full_cross_attention: Literal[True, False]) -> None:
    layers = 6 if full_cross_attention else 5
    assert Bert(layers=6, fusion_layer=layers, full_cross_attention=full_cross_attention).fusion_layer == layers


@pytest.mark.parametrize("name", ["data.root", "data.cache", "data.captioning.vocabulary", "start.weights"])
def test_the_home_of_nobody_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is '~no-such-user/x', and ~no-such-user is no user of this machine"):
        at(mars.tiny(), name, "~no-such-user/x")


def at(config: Any, path: str, value: str) -> Any:
    """The config with another value at a path of fields."""
    name, _, rest = path.partition(".")
    return replace(config, **{name: at(getattr(config, name), rest, value) if rest else value})
