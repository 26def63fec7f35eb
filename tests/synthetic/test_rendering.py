from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tbps.data.label_maps import encode_map, map_path
from tbps.data.label_sets import ATR, PASCAL
from tbps.synthetic.camera import encode, make_camera, photograph
from tbps.synthetic.colours import sample_rgb
from tbps.synthetic.person import Item, Person
from tbps.synthetic.pose import VIEWS
from tbps.synthetic.randomness import stream
from tbps.synthetic.rendering import Rendered, Shot, render

PLAIN = Person(
    gender="man",
    age="adult",
    build="medium",
    height="medium",
    skin=1,
    hair_style="short",
    hair_colour="black",
    top="t-shirt",
    top_colour="red",
    sleeve="short",
    pattern=None,
    inner_colour=None,
    bottom=Item("trousers", "blue"),
    shoes=Item("sneakers", "black"),
    bag=None,
    hat=None,
    scarf=None,
    glasses=False,
    held=None,
    shade=7,
)
CLEAR = replace(make_camera(0, 0), gains=(1.0, 1.0, 1.0), blur=0.0, noise=0.0, sensor_px=10_000, light_from_left=0.0)


def draw(
    person: Person, view: str = "front", image_px: tuple[int, int] = (192, 64), occluder: str | None = None
) -> Rendered:
    shot = Shot(view=view, occluder=occluder, walking=True)
    return render(person, shot, CLEAR, image_px, stream(0, "draw"))


def area(rendered: Rendered, label: str) -> int:
    return int((np.asarray(rendered.maps["atr"]) == ATR.number(label)).sum())


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("image_px", [(384, 128), (96, 48)])
def test_a_plain_man_has_every_part_of_a_plain_man(view: str, image_px: tuple[int, int]) -> None:
    rendered = draw(PLAIN, view, image_px)
    assert rendered.picture.size == rendered.maps["atr"].size == (image_px[1], image_px[0])
    assert rendered.picture.mode == "RGB"
    seen = {ATR.labels[label] for label in np.unique(np.asarray(rendered.maps["atr"]))}
    assert seen >= {"background", "hair", "upper-clothes", "pants", "left-shoe", "right-shoe", "face"}
    assert not seen & {"hat", "bag", "skirt", "dress", "scarf", "sunglasses"}
    person_share = float((np.asarray(rendered.maps["atr"]) > 0).mean())
    assert 0.12 < person_share < 0.6


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"hat": Item("cap", "green")}, "hat"),
        ({"hat": Item("beanie", "green")}, "hat"),
        ({"hat": Item("hat", "green")}, "hat"),
        ({"bag": Item("handbag", "green")}, "bag"),
        ({"bag": Item("shoulder bag", "green")}, "bag"),
        ({"bag": Item("messenger bag", "green")}, "bag"),
        ({"bag": Item("suitcase", "green")}, "bag"),
        ({"bag": Item("backpack", "green")}, "bag"),
        ({"scarf": "green"}, "scarf"),
        ({"glasses": True}, "sunglasses"),
        ({"gender": "woman", "bottom": Item("skirt", "green")}, "skirt"),
        ({"gender": "woman", "top": "dress", "bottom": None}, "dress"),
    ],
)
def test_what_is_worn_is_marked_in_the_parsing_map(change: dict[str, object], label: str) -> None:
    assert area(draw(PLAIN), label) == 0
    assert area(draw(replace(PLAIN, **change)), label) > 5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"top": "hoodie", "sleeve": "long"},
        {"top": "sweater", "sleeve": "long"},
        {"sleeve": "long"},
        {"pattern": Item("stripes", "white")},
        {"pattern": Item("plaid", "white")},
        {"pattern": Item("dots", "white")},
        {"pattern": Item("logo", "white")},
        {"pattern": Item("two-tone", "white")},
        {"bottom": Item("jeans", "blue")},
        {"bottom": Item("shorts", "blue")},
        {"bottom": Item("leggings", "blue")},
        {"shoes": Item("boots", "black")},
        {"shoes": Item("sandals", "black")},
        {"held": "phone"},
        {"held": "umbrella"},
        {"held": "bottle"},
        {"held": "book"},
        {"hair_style": "long"},
        {"hair_style": "bald"},
        {"hair_colour": "blonde"},
    ],
)
def test_every_attribute_changes_the_picture(change: dict[str, object]) -> None:
    plain = np.asarray(draw(PLAIN, image_px=(96, 48)).picture).astype(int)
    other = np.asarray(draw(replace(PLAIN, **change), image_px=(96, 48)).picture).astype(int)  # type: ignore[arg-type]
    assert (np.abs(plain - other).max(axis=2) > 20).sum() >= 6


def test_clothes_have_the_colour_they_are_said_to_have() -> None:
    rendered = draw(PLAIN, image_px=(384, 128))
    shirt = np.asarray(rendered.picture)[np.asarray(rendered.maps["atr"]) == ATR.number("upper-clothes")]
    expected = sample_rgb("red", stream(PLAIN.shade, "cloth", "top", "red"))
    # The exposure varies by 8 % from image to image, whatever the camera.
    assert np.abs(np.median(shirt, axis=0) / np.asarray(expected) - 1.0).max() < 0.12


def test_left_and_right_are_the_persons_own() -> None:
    def mean_column(view: str, label: str) -> float:
        return float(np.nonzero(np.asarray(draw(PLAIN, view).maps["atr"]) == ATR.number(label))[1].mean())

    assert mean_column("front", "left-shoe") > mean_column("front", "right-shoe")
    assert mean_column("back", "left-shoe") < mean_column("back", "right-shoe")


@pytest.mark.parametrize("occluder", ["pole", "bush", "car", "pedestrian"])
def test_an_occluder_is_background_of_the_maps(occluder: str) -> None:
    free, hidden = draw(PLAIN), draw(PLAIN, occluder=occluder)
    assert (np.asarray(free.picture) != np.asarray(hidden.picture)).any()
    for label_set in ("atr", "pascal"):
        assert (np.asarray(hidden.maps[label_set]) > 0).sum() < (np.asarray(free.maps[label_set]) > 0).sum()


def test_a_camera_keeps_the_size_and_leaves_its_mark() -> None:
    grey = Image.new("RGB", (40, 90), (100, 100, 100))
    assert np.asarray(photograph(grey, CLEAR, stream(0, "a"))).std() < 1.0
    for number in range(8):
        seen = photograph(grey, make_camera(1, number), stream(0, "a"))
        assert seen.size == (40, 90)
        assert np.asarray(seen).std() > 0.5
    assert make_camera(1, 3) == make_camera(1, 3) != make_camera(2, 3)


@pytest.mark.parametrize(("extension", "magic"), [("jpg", b"\xff\xd8"), ("png", b"\x89PNG"), ("bmp", b"BM")])
def test_images_are_encoded_as_their_extension_says(extension: str, magic: bytes) -> None:
    assert encode(Image.new("RGB", (8, 8)), extension, 90).startswith(magic)


def test_a_parsing_map_is_a_palette_image_of_labels(tmp_path: Path) -> None:
    labels_HW = np.asarray(draw(PLAIN).maps["atr"])
    (tmp_path / "map.png").write_bytes(encode_map(labels_HW, "atr", image_bytes=b""))
    with Image.open(tmp_path / "map.png") as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), labels_HW)
        assert read.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    assert map_path("cam_a/000.bmp", "atr").as_posix() == "parsing/atr/cam_a/000.png"


# -- the body under the clothes -------------------------------------------------------------------------------------------

DRESSED = {"top": "coat", "sleeve": "long", "bottom": Item("trousers", "blue"), "shoes": Item("boots", "black")}


def parts_of(rendered: Rendered) -> dict[str, np.ndarray[tuple[int, int], np.dtype[np.bool]]]:
    """(H, W) bool of each part of Pascal-Person-Part."""
    return {part: np.asarray(rendered.maps["pascal"]) == number for number, part in enumerate(PASCAL.labels)}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("change", [{}, DRESSED, {"gender": "woman", "top": "dress", "bottom": None}])
def test_every_part_of_the_body_is_there_whatever_covers_it(view: str, change: dict[str, Any]) -> None:
    rendered = draw(replace(PLAIN, **change), view)
    parts = parts_of(rendered)
    for part, shown_HW in parts.items():
        assert shown_HW.sum() > 20, part
    heights = {part: np.nonzero(shown_HW)[0].mean() for part, shown_HW in parts.items()}
    assert heights["head"] < heights["torso"] < heights["upper-legs"] < heights["lower-legs"]
    assert heights["upper-arms"] < heights["lower-arms"] < heights["lower-legs"]
    # The person is the same in both maps, as nothing is carried; the edge of a hem is cut once more in one of them.
    person, body = (np.asarray(labels) > 0 for labels in rendered.maps.values())
    assert (person != body).sum() < 0.005 * person.sum()


def test_sleeves_are_arms_and_a_coat_covers_thighs() -> None:
    bare, dressed = draw(PLAIN), draw(replace(PLAIN, **DRESSED))
    clothes_HW = np.asarray(dressed.maps["atr"]) == ATR.number("upper-clothes")
    for part in ("upper-arms", "lower-arms"):
        arms_HW = parts_of(dressed)[part]
        assert (arms_HW & clothes_HW).sum() > 0.7 * arms_HW.sum(), "under a sleeve"
        assert arms_HW.sum() > 50
        # Where an arm is does not depend on what it wears.
        assert (arms_HW & parts_of(bare)[part]).sum() > 0.5 * arms_HW.sum()
    assert (parts_of(dressed)["upper-legs"] & clothes_HW).sum() > 100
    assert not (parts_of(bare)["lower-arms"] & (np.asarray(bare.maps["atr"]) == ATR.number("upper-clothes"))).any()


def test_a_bag_hides_the_body_and_is_no_part_of_it() -> None:
    bag_HW = np.asarray(draw(replace(PLAIN, bag=Item("backpack", "green")), "back").maps["atr"]) == ATR.number("bag")
    parts = parts_of(draw(replace(PLAIN, bag=Item("backpack", "green")), "back"))
    assert bag_HW.sum() > 100 and (parts["background"] & bag_HW).sum() == bag_HW.sum()
    assert (parts_of(draw(PLAIN, "back"))["torso"] & bag_HW).sum() > 100
