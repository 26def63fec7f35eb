from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from small_methods import online, scattered, state, tiny
from torch import Tensor

from tbps.convert.official import from_official, to_official
from tbps.convert.weights import load_weights, place

TABLES = ("online.image_encoder.positions", "momentum_encoder.image_encoder.positions")


def interpolated(position_1PD: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    patch = position_1PD[0, 1:].T.reshape(1, -1, *old)
    resized = F.interpolate(patch, size=new, mode="bicubic", align_corners=False)
    return torch.cat([position_1PD[0, :1], resized[0].reshape(patch.shape[1], -1).T])[None]


def test_everything_of_a_file_is_placed_and_momentum_encoder_and_queue_kept_on_request() -> None:
    file = state(scattered(tiny("mars", seed=1)))
    file["queue.identity_K"] = torch.tensor([3, 1, 4, 1, 5])
    file["queue.pointer"] = torch.tensor([2])
    method = tiny("mars")
    report = place(method, file, source="a", keep_queue=True)
    assert sorted(report.placed) == sorted(file) and report.text() == f"{len(file)} tensors placed"
    for name, tensor in method.state_dict().items():
        assert torch.equal(tensor, file[name]), name
    assert not torch.equal(file[TABLES[0]], file[TABLES[1]])


def test_positions_257_to_577_in_both_encoders_as_a_direct_interpolation() -> None:
    vit = {"width": 8, "depth": 1, "heads": 1, "patch_px": 16}
    file = state(scattered(tiny("rasa", image_px=(256, 256), vit=vit)))
    assert file[TABLES[0]].shape == (1, 257, 8)
    method = tiny("rasa", image_px=(384, 384), vit=vit)
    report = place(method, file, source="a")
    assert sorted(report.resized) == sorted(TABLES) and "2 position tables interpolated" in report.text()
    for name in TABLES:
        expected = interpolated(file[name], (16, 16), (24, 24))
        assert expected.shape == (1, 577, 8)
        assert torch.equal(method.state_dict()[name], expected)
    assert not torch.equal(method.state_dict()[TABLES[0]], method.state_dict()[TABLES[1]])


def test_positions_of_the_same_grid_are_left_alone() -> None:
    file = state(scattered(tiny("rasa", image_px=(384, 384), vit={"patch_px": 16})))
    assert file[TABLES[0]].shape[1] == 577
    method = tiny("rasa", image_px=(384, 384), vit={"patch_px": 16})
    report = place(method, file, source="a")
    assert report.resized == []
    assert all(torch.equal(method.state_dict()[name], file[name]) for name in TABLES)


def test_positions_to_a_grid_that_is_not_square_and_of_the_decoder() -> None:
    file = state(scattered(tiny("mars", image_px=(32, 32))))
    method = tiny("mars", image_px=(48, 16))
    report = place(method, file, source="a")
    assert report.resized == [*TABLES, "mae_decoder.positions"]
    assert torch.equal(method.state_dict()[TABLES[1]], interpolated(file[TABLES[1]], (4, 4), (6, 2)))
    decoder = interpolated(file["mae_decoder.positions"][None], (4, 4), (6, 2))[0]
    assert torch.equal(method.mae_decoder.positions, decoder)


def test_the_grid_in_the_file_is_used(tmp_path: Path) -> None:
    file = state(scattered(tiny("rasa", image_px=(64, 16))))
    save_file(file, tmp_path / "a.safetensors", metadata={"image_grid": "8x2"})
    method = tiny("rasa", image_px=(32, 32))  # as many patches, in another grid
    report = load_weights(method, tmp_path / "a.safetensors")
    assert sorted(report.resized) == sorted(TABLES)
    assert torch.equal(method.state_dict()[TABLES[0]], interpolated(file[TABLES[0]], (8, 2), (4, 4)))


def test_an_unknown_grid_that_is_not_square_is_refused() -> None:
    file = state(tiny("rasa", image_px=(48, 32)))
    with pytest.raises(
        ValueError, match=r"a: online\.image_encoder\.positions has 24 patches, expected a square grid or .*4x4.*--export"
    ):
        place(tiny("rasa", image_px=(32, 32)), file, source="a")


@pytest.mark.parametrize("grid", [(32, 32), (64, 64)])
def test_another_architecture_is_refused_with_names_and_shapes_and_nothing_is_changed(grid: tuple[int, int]) -> None:
    method = tiny("rasa", image_px=grid)
    before = state(method)
    with pytest.raises(ValueError) as error:
        place(method, state(tiny("rasa", seed=1, vit={"width": 48})), source="b.safetensors")
    assert (
        "b.safetensors: not of this architecture (online.image_encoder.cls_token is (1, 1, 48), expected (1, 1, 24);"
        in str(error.value)
    )
    assert "more); choose the recipe or the sizes that the file was made with" in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_a_file_without_any_known_name_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor has a name of this method"):
        place(tiny("rasa"), {"zebra": torch.zeros(2)}, source="a")


def test_another_vocabulary_is_refused_with_both_sizes() -> None:
    file = state(tiny("rasa", bert={"vocabulary_size": 28}))
    with pytest.raises(ValueError, match=r"a: its vocabulary has 28 words, expected 30 \(method\.bert\.vocabulary-size\)"):
        place(tiny("rasa"), file, source="a")


def test_an_absent_momentum_encoder_is_rebuilt_from_the_online_encoder() -> None:
    file = online(state(scattered(tiny("rasa", seed=1))))
    method = scattered(tiny("rasa"))
    report = place(method, file, source="a")
    assert len(report.copied) == len(file) and "momentum tensors copied from the online encoder" in report.text()
    for name, tensor in file.items():
        assert torch.equal(method.state_dict()["momentum_encoder." + name.removeprefix("online.")], tensor), name


def test_heads_that_the_file_lacks_keep_their_values_and_are_reported() -> None:
    file = {name: tensor for name, tensor in state(tiny("rasa", seed=1)).items() if "prd" not in name and "mrtd" not in name}
    method = tiny("rasa")
    before = state(method)
    report = place(method, file, source="a")
    assert report.missing == ["prd_head.weight", "prd_head.bias", "mrtd_head.weight", "mrtd_head.bias"]
    assert "4 missing in the file: prd_head.weight" in report.text()
    assert torch.equal(method.prd_head.weight, before["prd_head.weight"])


def test_what_the_method_lacks_is_reported() -> None:
    report = place(tiny("albef"), state(tiny("rasa")), source="a")
    assert "online.word_head.bias" in report.unplaced and "mrtd_head.bias" in report.unplaced
    assert f"{len(report.unplaced)} without a place" in report.text() and report.missing == []


def test_momentum_tensors_that_no_loss_of_the_method_reads_are_named_as_not_needed() -> None:
    file = state(scattered(tiny("rasa")))
    method = tiny("albef", keep_word_head=True)
    report = place(method, file, source="a")
    crossing = [
        name for name in file if name.startswith("momentum_encoder.text_encoder.layers.") and int(name.split(".")[3]) > 1
    ]
    heads = [name for name in file if name.startswith("momentum_encoder.word_head.")]
    assert len(crossing) > 20 and len(heads) == 5 and report.unread == [*crossing, *heads]
    assert report.unplaced == ["prd_head.weight", "prd_head.bias", "mrtd_head.weight", "mrtd_head.bias"]
    assert f"; {len(report.unread)} momentum tensors that no loss reads not needed: {report.unread[0]}, " in report.text()
    assert all(torch.equal(tensor, file[name]) for name, tensor in method.state_dict().items() if "queue" not in name)


@pytest.mark.parametrize("case", ["not asked for", "other size", "incomplete"])
def test_the_queue_is_empty_unless_asked_for_and_whole(case: str) -> None:
    file = state(tiny("rasa", queue_pairs=7 if case == "other size" else 5))
    file["queue.identity_K"].fill_(8)
    if case == "incomplete":
        del file["queue.identity_K"]
    method = tiny("rasa")
    method.queue.identity_K.fill_(3)
    method.queue.pointer.fill_(4)
    report = place(method, file, source="a", keep_queue=case != "not asked for")
    assert method.queue.identity_K.tolist() == [-100] * 5 and method.queue.pointer.tolist() == [0]
    assert not any(name.startswith("queue.") for name in report.placed + report.missing + report.unplaced)
    expected = {
        "not asked for": "the queue starts empty: that of the file belongs to the data it was filled from",
        "other size": "the queue starts empty: queue.image_KE is (7, 6), expected (5, 6)",
        "incomplete": "the queue starts empty: queue.identity_K is not in the file, expected (5,)",
    }
    assert expected[case] in report.text()


def test_mars_from_pretrained_albef_keeps_its_new_parts_random_and_both_encoders_equal() -> None:
    """ALBEF.pth: cross-attention from the fusion layer on, no relation heads, no decoder, 16 x 16 patches."""
    pretrained = scattered(tiny("rasa", image_px=(64, 64), seed=1))
    official = {
        key: value for key, value in to_official(state(pretrained)).items() if "prd_" not in key and "mrtd_" not in key
    }
    del official["idx_queue"]
    converted = from_official(official)
    method = tiny("mars", image_px=(32, 32))
    before = state(method)
    report = place(method, converted.tensors, source="ALBEF.pth", keep_queue=True)
    early = [name for name in before if ".layers.0.cross_attention" in name or ".layers.1.cross_attention" in name]
    assert len(early) == 2 * 2 * 8
    new = [name for name in early if name.startswith("online.")]
    new += [name for name in before if name.startswith(("prd_head", "mrtd_head", "mae_decoder"))]
    assert sorted(report.missing) == sorted(new)
    after = method.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in new)
    assert sorted(report.copied) == sorted(name for name in early if name.startswith("momentum_encoder."))
    for name in report.copied:
        assert torch.equal(after[name], after["online." + name.removeprefix("momentum_encoder.")])
    kept = "momentum_encoder.text_encoder.layers.2.cross_attention.query.weight"  # the file's own momentum copy
    assert torch.equal(after[kept], pretrained.state_dict()[kept])
    assert method.queue.identity_K.tolist() == [-100] * 5


def test_a_file_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: not a readable safetensors file .*convert a foreign checkpoint first"):
        load_weights(tiny("rasa"), tmp_path / "a.pth")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_weights(tiny("rasa"), tmp_path / "absent.safetensors")
