"""Further fields of a pair: attributes, fields of a method's own; nothing is made that nobody asks for."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from mapped_pairs import IMAGE_PX, asking, data_of, load
from tiny_folder import make_data, write_folder
from torch import Tensor

from tbps.data.batch import HostBatch
from tbps.data.fields import FIELDS, Field, choose_fields, read_field, try_fields
from tbps.data.pairs import PairSource, open_pairs
from tbps.data.shard_writer import write_shards
from tbps.text.captions import CaptionEncoder


def length_of_caption(source: PairSource, index: int) -> Tensor:
    return torch.tensor([len(source.caption(index)), index], dtype=torch.int32)


def ragged(source: PairSource, index: int) -> Tensor:
    return torch.zeros(index % 2 + 1)


def test_attributes_are_those_of_the_row(tmp_path: Path, encoder: CaptionEncoder) -> None:
    rows = {row["image"]: row["label"] for row in write_folder(tmp_path / "mals", "mals")}
    write_shards(tmp_path / "mals", "mals", tmp_path / "shards")
    needs = asking("attributes", weak_positives=False)
    for root in (tmp_path / "mals", tmp_path / "shards"):
        data = make_data(root, "mals", batch_pairs=4, weak_positive_probability=0)
        for host, batch in load(data, encoder, needs):
            assert batch.fields["attributes"].dtype == torch.int8
            assert batch.fields["attributes"].tolist() == [rows[key.rsplit("#", 1)[0]] for key in host.keys]


def test_a_method_has_fields_of_its_own_beside_the_common_ones(world: Path, encoder: CaptionEncoder) -> None:
    fields = {**FIELDS, "length": Field(read=length_of_caption)}
    source = open_pairs(data_of(world))
    for host, batch in load(data_of(world, workers=1), encoder, asking("length", "parsing_atr"), fields=fields):
        assert sorted(batch.fields) == ["length", "parsing_atr"]
        for row, key in enumerate(host.keys):
            length, index = batch.fields["length"][row].tolist()
            assert source.key(index) == key and length == len(source.caption(index))


def test_fields_that_are_not_asked_for_are_not_read(tmp_path: Path, encoder: CaptionEncoder) -> None:
    write_folder(tmp_path, "rstpreid")  # without parsing maps
    for host, batch in load(data_of(tmp_path), encoder, asking()):
        assert host.maps == host.fields == batch.fields == {}


def test_an_unknown_field_is_refused_with_what_there_is(world: Path, encoder: CaptionEncoder) -> None:
    with pytest.raises(
        ValueError,
        match=r"^the method's needs.fields names 'pose', expected one of attributes, parsing_atr, parsing_lip, parsing_pas",
    ):
        choose_fields(("parsing_atr", "pose"), FIELDS)
    with pytest.raises(
        ValueError, match="names 'parsing_atr', expected one of length; change it, or add the field to FIELDS"
    ):
        load(data_of(world), encoder, asking("parsing_atr"), fields={"length": Field(read=length_of_caption)})


@pytest.mark.parametrize("workers", [0, 1])
def test_a_field_that_differs_in_shape_is_refused(world: Path, encoder: CaptionEncoder, workers: int) -> None:
    sentence = r"^pair \S+#\d, field ragged: it is \(\d,\) of torch.float32, expected \(\d,\) of torch.float32 as for"
    with pytest.raises(ValueError, match=sentence):
        load(data_of(world, workers=workers), encoder, asking("ragged"), fields={"ragged": Field(read=ragged)})


def test_data_without_a_field_are_refused_at_the_first_pair(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "rstpreid")
    write_shards(tmp_path / "folder", "rstpreid", tmp_path / "shards")
    folder, shards = (open_pairs(data_of(tmp_path / name)) for name in ("folder", "shards"))
    for source, name, sentence in (
        (folder, "parsing_atr", r"^\S+ has no parsing maps of ATR: \S+ is not there; write them with tbps parse \S+ --ben"),
        (
            shards,
            "parsing_lip",
            r"shards at \S+ bring no parsing maps of LIP; make them again with tbps data shard --parsing lip$",
        ),
        (folder, "attributes", r"rstpreid at \S+ annotates no attributes; "),
        (shards, "attributes", r"the shards at \S+ bring no attributes; "),
    ):
        with pytest.raises(ValueError, match=sentence):
            try_fields({name: FIELDS[name]}, source)
    try_fields({"length": Field(read=length_of_caption)}, shards)


def test_shards_of_the_format_before_are_read_and_lack_fields(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "rstpreid")
    write_shards(tmp_path / "folder", "rstpreid", tmp_path / "shards")
    index = tmp_path / "shards/tbps-index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "format": 2}))
    source = open_pairs(data_of(tmp_path / "shards"))
    assert source.image_bytes(0) == open_pairs(data_of(tmp_path / "folder")).image_bytes(0)
    with pytest.raises(ValueError, match="bring no parsing maps"):
        read_field("parsing_atr", FIELDS["parsing_atr"], source, 0)


# -- what is not asked for ------------------------------------------------------------------------------------------------


def test_no_second_view_and_no_weak_positive_where_nobody_asks(world: Path, encoder: CaptionEncoder) -> None:
    data = data_of(world, ("resized-crop", "random-operations", "flip", "erase"), weak_positive_probability=1.0)
    for host, batch in load(data, encoder, asking(second_view=False, weak_positives=False)):
        assert host.second_pixels_BCHW is None and host.flip_BV.shape == (8, 1)
        assert host.erase_BV4 is not None and host.erase_BV4.shape == (8, 1, 4)
        assert batch.second_image_BCHW is None and batch.image_BCHW.shape == (8, 3, *IMAGE_PX)
        assert batch.paired is batch.own and not batch.replaced_B.any()
    for _, batch in load(data, encoder, asking()):
        assert batch.second_image_BCHW is not None and not torch.equal(batch.second_image_BCHW, batch.image_BCHW)
        assert batch.replaced_B.any()


@dataclasses.dataclass(kw_only=True)
class WiderBatch(HostBatch):
    """One with something more."""

    further_B: Tensor
    note: str = "stays"


def test_every_tensor_of_a_batch_goes_along_whatever_its_name(world: Path, encoder: CaptionEncoder) -> None:
    fields = {**FIELDS, "length": Field(read=length_of_caption)}
    data, needs = data_of(world, ("flip", "pad-crop", "erase")), asking("parsing_atr", "length")
    host, _ = load(data, encoder, needs, fields=fields)[0]
    wider = WiderBatch(**{one.name: getattr(host, one.name) for one in dataclasses.fields(host)}, further_B=torch.ones(8))
    moved = wider.each_tensor(lambda tensor: tensor.to("meta"))
    assert isinstance(moved, WiderBatch) and moved.note == "stays" and moved.keys == host.keys
    for one in dataclasses.fields(moved):
        value = getattr(moved, one.name)
        tensors = [value] if isinstance(value, Tensor) else list(value.values()) if isinstance(value, dict) else []
        assert all(tensor.is_meta for tensor in tensors), one.name
    assert moved.further_B.is_meta and moved.maps["parsing_atr"].is_meta and moved.fields["length"].is_meta
    assert moved.own is host.own and moved.draws is host.draws, "captions and numbers stay on the host"
    assert not wider.further_B.is_meta
