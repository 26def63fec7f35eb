"""`tbps plan`: what it prints, what it refuses, and that its parts fit together."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from small_runs import run_of

from tbps.command import main
from tbps.planning import plan as planning
from tbps.planning.collectives import collectives_of, counted
from tbps.planning.gpus import GPUS, gpu_of
from tbps.planning.plan import Plan, make_plan
from tbps.planning.tables import plan_text


@pytest.fixture(scope="module")
def small() -> Plan:
    """RaSa's small twin on two V100."""
    return make_plan(run_of("rasa"), gpu_of("v100"), gpus=2)


def test_the_command_of_the_readme_prints_a_whole_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "mars", "cuhk-pedes", "--gpu", "h100", "--gpus", "64"]) == 0
    said = capsys.readouterr().out
    for part in ("272,642,625", "224,365,370", "momentum encoder", "ZeRO-3", "checkpointing", "adapters on q,k,v,out"):
        assert part in said, said
    # docs of performance: 865 GFLOP a pair with 28 tokens a caption
    gflop = float(re.findall(r"(\d+\.\d) +│ *\n└", said)[0])
    assert 800 < gflop < 950
    assert "planned with 512" in said and "The GPUs' arithmetic limits: " in said


def test_what_a_gpu_holds_falls_with_the_stage_and_with_checkpointing(small: Plan) -> None:
    plain, again, adapted, both = small.variants
    assert [(one.checkpointing, one.lora) for one in small.variants] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]
    assert again.activations(32) < plain.activations(32) and both.activations(32) < adapted.activations(32)
    assert adapted.cost.parameters["trained"] < plain.cost.parameters["trained"]
    assert plain.largest(0, 2, small.gpu, 16) < again.largest(0, 2, small.gpu, 16)
    largest = plain.largest(0, 2, small.gpu, 16)
    assert largest % 16 == 0 and plain.total(0, 2, largest) < small.gpu.memory_gib * planning.GIB
    without_bucket = [plain.kept(stage, 64) - planning.BUCKET_BYTES for stage in (1, 2, 3)]
    assert without_bucket[0] > without_bucket[1]


def test_activations_of_a_larger_micro_batch_are_foretold(small: Plan) -> None:
    cost = planning.rehearse(small.run, pairs=64, processes=2)
    assert small.own.activations(64) == pytest.approx(cost.activations, rel=0.05)


def test_collectives_of_a_larger_step_are_foretold_and_printed(small: Plan) -> None:
    larger = replace(small, run=replace(small.run, data=replace(small.run.data, batch_pairs=128, micro_batch_pairs=0)))
    said = plan_text(larger)
    said = said[said.index("Collectives of a step (DDP, 64 pairs on each GPU)") :]
    rows = re.findall(r"│ (\S+)(?: \(\w+\))? +│ (all-\w+) +│ float32 │ (\d+) +│ ([\d.]+) +│", said)
    expected = counted(collectives_of(small.run, pairs=64, processes=2, rank=0))
    assert len(expected) == 3 and rows == [
        (one.place.split()[0], one.what, str(number), f"{size / 1e6:.3f}") for one, number, size in expected
    ]
    assert "Collectives" not in plan_text(replace(small, gpus=1))


def test_pairs_of_several_data_sets_add_up(small: Plan) -> None:
    both = replace(small.run.data, benchmark="mals", sources=("mals:3", "coco:1"), roots=("coco=data/COCO",))
    assert replace(small, run=replace(small.run, data=both)).num_pairs == 1_510_330 + 566_747
    unknown = replace(small.run.data, benchmark="webperson")
    assert replace(small, run=replace(small.run, data=unknown)).num_pairs is None
    assert replace(small, run=replace(small.run, data=replace(unknown, limit_pairs=10))).num_pairs == 10


def test_time_follows_the_slowest_part(small: Plan) -> None:
    assert small.step_s == pytest.approx(max(small.compute_s, small.launch_s) + small.waiting_s)
    assert small.limit().startswith("The host limits: ")
    slow_links = replace(small, gpu=replace(small.gpu, link_gb_s=1e-3))
    assert slow_links.limit().startswith("The network limits: ")
    weak = replace(small, gpu=replace(small.gpu, fp32_tflops=1e-3))
    assert weak.limit().startswith("The GPUs' arithmetic limits: ")
    little = replace(small, gpu=replace(small.gpu, memory_gib=1.07))
    assert little.limit().startswith("Memory limits: ")
    measured = replace(small, measured_pairs_per_s=320.0)
    assert measured.step_s == pytest.approx(0.1) and measured.limit().startswith("Measured: 320 pairs/s")
    assert small.gradient_bytes == pytest.approx(small.own.cost.gradient)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "mars tiny --gpu b999",
            r"GPU 'b999' is not known, expected one of a100-40, .* --gpu-memory-gb 48 --gpu-tflops 150",
        ),
        ("mars tiny --gpu h100 --gpus 0", "--gpus is 0, expected at least 1"),
        ("mars tiny --gpu h100 --gpus-per-node 0", "--gpus-per-node is 0, expected at least 1"),
        ("mars tiny --gpu h100 --utilisation 2", "--utilisation is 2, expected a share"),
        ("mars tiny --gpu h100 --pairs-per-s -3", "--pairs-per-s is -3, expected more than 0"),
        ("mars tiny --gpu h100 --gpu-tflops 0", "--gpu-tflops is 0, expected more than 0"),
        (
            "mars tiny --gpu h100 --gpus 3 --data.batch-pairs 64",
            r"data.batch_pairs is 64, 4 groups of 16 pairs, which 3 GPUs cannot share evenly; give --gpus one of 1, 2, 4,"
            r" or a multiple of 48 pairs",
        ),
        ("mars tiny --gpu h100 --data.batch-pairs 64 --data.micro-batch-pairs 48", "expected a divisor of the 64 pairs"),
        ("mars huge --gpu h100", "mars has no variant 'huge', expected one of cuhk-pedes"),
        ("nothing tiny --gpu h100", "nothing.py' is not there, expected one of .*mars.py"),
    ],
)
def test_bad_input_is_one_sentence(words: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(said, error), error


def test_unknown_words_are_overrides_of_a_plan_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["results", "--data.root", "x"])
    assert end.value.code == 2 and "unrecognized arguments: --data.root" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["plan", "mars", "tiny", "--gpu", "h100", "--data.batch-pears", "3"])
    assert "data.batch-pears" in capsys.readouterr().err


def test_every_card_says_where_its_numbers_are_from() -> None:
    for gpu in GPUS.values():
        assert gpu.source and gpu.memory_gib > 1 and gpu.bf16_tflops > gpu.fp32_tflops > 0, gpu
    assert gpu_of("mine", memory_gb=48, tflops=150).memory_gib == 48
