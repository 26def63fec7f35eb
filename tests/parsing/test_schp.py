"""Maps that SCHP has written are taken as they are, of its three label sets."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_parsers import IMAGE_PX, command_of, maps_of, write_schp

from tbps.command import main
from tbps.config.data import LabelSetName
from tbps.data.label_maps import decode_map, map_path
from tbps.data.label_sets import LABEL_SETS
from tbps.parsing.write_maps import images_to_parse


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("label_set", LABEL_SETS)
def test_maps_are_taken_as_they_are(world: Path, tmp_path: Path, label_set: LabelSetName, flat: bool) -> None:
    images = images_to_parse(world, "rstpreid")
    labels = write_schp(tmp_path / "schp", images, label_set, flat=flat)
    assert main(command_of(world, f"schp-{label_set}:{tmp_path}/schp")) == 0
    for path in images:
        found = decode_map((world / map_path(path, label_set)).read_bytes(), LABEL_SETS[label_set])
        assert np.array_equal(found.numpy(), labels[path])
    expected = maps_of(world)
    assert main(command_of(world, f"schp-{label_set}:{tmp_path}/schp")) == 0
    assert maps_of(world) == expected and f"{label_set}/manifest.json" in expected


def test_two_label_sets_lie_side_by_side(world: Path, tmp_path: Path) -> None:
    images = images_to_parse(world, "rstpreid")
    for label_set in ("lip", "pascal"):
        write_schp(tmp_path / label_set, images, label_set, flat=True)
        assert main(command_of(world, f"schp-{label_set}:{tmp_path / label_set}")) == 0
    assert {name.split("/")[0] for name in maps_of(world)} == {"lip", "pascal"}


def test_what_cannot_be_taken_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = images_to_parse(world, "rstpreid")
    whole = tmp_path / "whole"
    write_schp(whole, images, "pascal", flat=True)

    def told(folder: str, kind: str = "schp-pascal:") -> str:
        assert main(command_of(world, f"{kind}{folder}")) == 2
        shutil.rmtree(world / "parsing", ignore_errors=True)
        return capsys.readouterr().err

    def changed(name: str, content: bytes | None) -> str:
        folder = Path(shutil.copytree(whole, tmp_path / name))
        file = folder / Path(images[4]).with_suffix(".png").name
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        return told(str(folder))

    def png(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    name = Path(images[4]).with_suffix(".png").name
    assert f"missing holds no map of image {images[4]}, expected " in changed("missing", None)
    assert f"{name}: its label map is 47 x 16, expected 48 x 16 as its image" in changed(
        "size", png(Image.new("L", (16, 47)))
    )
    assert f"{name}: its label map is of mode RGB, expected P or L" in changed("rgb", png(Image.new("RGB", (16, 48))))
    assert f"{name}: its label map holds label 7, expected 0 to 6 of Pascal" in changed(
        "far", png(Image.new("L", (16, 48), 7))
    )
    assert "nowhere is no folder, expected one of SCHP's maps" in told("nowhere")
    assert "does not say of which label set SCHP's maps are, expected one of schp-atr:FOLDER, schp-lip:" in told(
        "x", "schp:"
    )


def test_of_a_jpeg_the_name_that_the_tool_gives_is_taken(tmp_path: Path) -> None:
    from tbps.parsing.schp import SchpMaps

    labels = write_schp(tmp_path, ["a/0001.jpeg"], "lip", flat=True)
    (tmp_path / "0001.png").rename(tmp_path / "0001..png")  # simple_extractor.py: img_name[:-4] + ".png"
    maps = SchpMaps(tmp_path, "lip", ["a/0001.jpeg"])
    assert np.array_equal(maps.prepare("a/0001.jpeg", np.zeros((*IMAGE_PX, 3), np.uint8)), labels["a/0001.jpeg"])


def test_a_map_that_might_be_of_two_images_is_refused(world: Path, tmp_path: Path) -> None:
    from tbps.parsing.schp import SchpMaps

    write_schp(tmp_path / "schp", ["a/1.jpg"], "lip", flat=True)
    with pytest.raises(
        ValueError, match=r"1.png may be the map of 2 images of that name, one of them a/1.jpg; put the maps"
    ):
        SchpMaps(tmp_path / "schp", "lip", ["a/1.jpg", "b/1.jpg"])
    write_schp(tmp_path / "schp", ["a/1.jpg", "b/1.jpg"], "lip", flat=False)
    assert len(SchpMaps(tmp_path / "schp", "lip", ["a/1.jpg", "b/1.jpg"]).prepare("b/1.jpg", np.zeros((*IMAGE_PX, 3)))) == 48


def test_maps_that_have_changed_are_not_mixed_with_old_ones(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = images_to_parse(world, "rstpreid")
    write_schp(tmp_path / "schp", images, "atr", flat=True)
    assert main(command_of(world, f"schp-atr:{tmp_path}/schp")) == 0
    write_schp(tmp_path / "schp", list(reversed(images)), "atr", flat=True)
    assert main(command_of(world, f"schp-atr:{tmp_path}/schp")) == 2
    assert "parsing/atr holds maps of schp-atr with sha256" in capsys.readouterr().err
