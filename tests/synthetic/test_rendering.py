from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tbps.data.label_maps import ATR_LABELS, parsing_path
from tbps.synthetic.camera import encode, make_camera, photograph
from tbps.synthetic.colours import sample_rgb
from tbps.synthetic.parsing import LABEL, save_parsing_map
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
    return int((np.asarray(rendered.labels) == LABEL[label]).sum())


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("image_px", [(384, 128), (96, 48)])
def test_a_plain_man_has_every_part_of_a_plain_man(view: str, image_px: tuple[int, int]) -> None:
    rendered = draw(PLAIN, view, image_px)
    assert rendered.picture.size == rendered.labels.size == (image_px[1], image_px[0])
    assert rendered.picture.mode == "RGB"
    seen = {ATR_LABELS[label] for label in np.unique(np.asarray(rendered.labels))}
    assert seen >= {"background", "hair", "upper-clothes", "pants", "left-shoe", "right-shoe", "face"}
    assert not seen & {"hat", "bag", "skirt", "dress", "scarf", "sunglasses"}
    person_share = float((np.asarray(rendered.labels) > 0).mean())
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
    shirt = np.asarray(rendered.picture)[np.asarray(rendered.labels) == LABEL["upper-clothes"]]
    expected = sample_rgb("red", stream(PLAIN.shade, "cloth", "top", "red"))
    # The exposure varies by 8 % from image to image, whatever the camera.
    assert np.abs(np.median(shirt, axis=0) / np.asarray(expected) - 1.0).max() < 0.12


def test_left_and_right_are_the_persons_own() -> None:
    def mean_column(view: str, label: str) -> float:
        return float(np.nonzero(np.asarray(draw(PLAIN, view).labels) == LABEL[label])[1].mean())

    assert mean_column("front", "left-shoe") > mean_column("front", "right-shoe")
    assert mean_column("back", "left-shoe") < mean_column("back", "right-shoe")


@pytest.mark.parametrize("occluder", ["pole", "bush", "car", "pedestrian"])
def test_an_occluder_is_background_of_the_map(occluder: str) -> None:
    free, hidden = draw(PLAIN), draw(PLAIN, occluder=occluder)
    assert (np.asarray(free.picture) != np.asarray(hidden.picture)).any()
    assert (np.asarray(hidden.labels) > 0).sum() < (np.asarray(free.labels) > 0).sum()


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
    labels = draw(PLAIN).labels
    save_parsing_map(labels, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read), np.asarray(labels))
        assert read.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
    assert parsing_path("cam_a/000.bmp").as_posix() == "parsing/cam_a/000.png"
