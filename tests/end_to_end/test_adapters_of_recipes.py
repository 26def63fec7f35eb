"""Each recipe on frozen encoders with adapters: what stays, what learns, and what merged weights compute."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from adapted_scores import assert_merged_scores_as_adapted, built, start_weights_of
from peft.tuners.lora import LoraLayer
from small_world import CLIP_FAMILY, World, run_recipe

import tbps.run
from tbps.command import main
from tbps.config.run import Run
from tbps.methods.method import Method
from tbps.nn.lora import merge_adapters
from tbps.runs.checkpoint import BASE, newest, read_progress, read_tensors
from tbps.runs.run_folder import RunFolder
from tbps.training.adapters import adapt, base_sha256, load_adapters
from tbps.training.parts import Parts
from tbps.training.start import load_finished

STEPS = 3
"""B learns from the first one on, A from the second."""
LORA = ("--lora.targets", "q,k,v,out", "--lora.rank", "4")
QUIET = ("--evaluation.test", "False", "--evaluation.every-epochs", "0", "--data.workers", "1", "--loop.log-steps", "1")


def _words(world: World, runs: Path, recipe: str, *changes: str) -> list[str]:
    dropout = () if recipe in CLIP_FAMILY else ("--method.bert.dropout", "0.1")
    return ["tiny", *world.overrides(runs, recipe=recipe, max_steps=STEPS), *QUIET, *dropout, *changes]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run with adapters, in this process."""

    recipe: str
    base: Path
    """Folder of the run whose weights it started from."""
    folder: Path
    log: str
    method: Method
    """As the last step left it."""

    @property
    def adapters(self) -> list[str]:
        """Names of A and B of each adapter that is trained."""
        return [name for name, parameter in self.method.named_parameters() if ".lora_" in name and parameter.requires_grad]


def _train(recipe: str, words: list[str], patch: pytest.MonkeyPatch) -> Method:
    """Run a recipe as its command does; the method that was trained."""
    built: list[Method] = []
    make_parts = tbps.run.make_parts

    def keeping(run: Run) -> Parts:
        parts = make_parts(run)

        def build() -> Method:
            built.append(parts.build())
            return built[-1]

        return replace(parts, build=build)

    patch.setattr(tbps.run, "make_parts", keeping)
    assert run_recipe(recipe, *words) == 0
    return built[0]


@pytest.fixture(scope="module", params=["clip", "irra", "bilma", "albef", "rasa", "mars", "aga", "laip"])
def trained(world: World, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Trained:
    """With activation checkpointing, on a recipe's weights of two steps."""
    recipe, runs = str(request.param), tmp_path_factory.mktemp("adapters")
    assert run_recipe(recipe, *_words(world, runs, recipe, "--name", "base", "--schedule.max-steps", "2")) == 0
    start = ("--start.weights", str(runs / recipe / "base"), *LORA, "--loop.activation-checkpointing", "True")
    with pytest.MonkeyPatch.context() as patch, _Log() as log:
        method = _train(recipe, _words(world, runs, recipe, *start), patch)
    return Trained(
        recipe=recipe, base=runs / recipe / "base", folder=runs / recipe / "tiny", log="\n".join(log.lines), method=method
    )


class _Log(logging.Handler):
    """The lines of a run; pytest's own record of them belongs to single tests."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> _Log:
        self.level_before = logging.getLogger().level
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger().addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logging.getLogger().removeHandler(self)
        logging.getLogger().setLevel(self.level_before)


@pytest.mark.slow
def test_every_adapter_gets_a_gradient_also_with_activation_checkpointing(
    world: World, trained: Trained, tmp_path: Path
) -> None:
    said = _gradients(trained.log)
    assert said.startswith(f"step 1: gradient norms of {len(trained.adapters) // 2} adapters: q ") and "each got one" in said
    norms = [float(norm) for norm in re.findall(r"\d\.\d\de[-+]\d\d", said)]
    assert len(norms) == 2 * 4 and all(0 < low <= high for low, high in zip(norms[::2], norms[1::2], strict=True))
    state = newest(trained.folder / "checkpoints")
    assert state is not None
    moments = read_tensors(state / "optimiser.safetensors")  # of all gradients: of A too, which has none at first
    assert not [name for name in trained.adapters if not moments[f"exp_avg_sq/{name}"].max() > 0]
    start = ("--start.weights", str(trained.base), *LORA, "--schedule.max-steps", "1")
    with _Log() as plain:
        assert run_recipe(trained.recipe, *_words(world, tmp_path, trained.recipe, *start)) == 0
    assert _gradients("\n".join(plain.lines)) == said


def _gradients(log: str) -> str:
    found = re.findall(r"^step \d+: gradient norms .*$", log, re.M)
    assert len(found) == 1, log
    return str(found[0])


@pytest.mark.slow
def test_frozen_weights_are_the_base_to_the_last_bit(trained: Trained, tmp_path: Path) -> None:
    """Those under the momentum encoder's adapters too."""
    run = RunFolder(trained.folder).read_run()
    method = built(run)
    state = newest(trained.folder / "checkpoints")
    assert state is not None and not [name for name in read_tensors(state / "model.safetensors") if "base_layer" in name]
    load_finished(method, run, state)
    method.load_state_dict(trained.method.state_dict())
    for copy in ("", *method.copies):
        _without_adapters(method)
        if copy:
            state_of_copy = method.get_submodule(copy).state_dict()  # without parts that no loss reads
            method.get_submodule(method.copies[copy]).load_state_dict(state_of_copy, strict=False)
        assert base_sha256(method) == read_progress(state)[BASE] == base_sha256(start_weights_of(run))


def _without_adapters(method: Method) -> None:
    for parent in list(method.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, LoraLayer):
                setattr(parent, name, layer.get_base_layer())
    merge_adapters(method)  # there is none to merge: it puts split layers together


@pytest.mark.slow
def test_merged_weights_score_as_adapters_do(trained: Trained, tmp_path: Path) -> None:
    assert_merged_scores_as_adapted(trained.folder, tmp_path / "merged.safetensors")


@pytest.mark.slow
def test_adapters_of_an_export_begin_in_the_momentum_encoder_too(trained: Trained, tmp_path: Path) -> None:
    run, out = RunFolder(trained.folder).read_run(), tmp_path / "adapters.safetensors"
    assert main(["convert", "--export", str(trained.folder), str(out)]) == 0
    method = start_weights_of(run)
    load_adapters(method, adapt(method, run.lora), replace(run.lora, adapters=str(out)))
    state, exported = method.state_dict(), read_tensors(out)
    assert all(torch.equal(state[name], tensor) for name, tensor in exported.items())
    for copy, source in method.copies.items():
        names = [name for name in state if name.startswith(f"{copy}.")]
        assert any(".lora_" in name for name in names)
        assert all(torch.equal(state[name], state[source + name.removeprefix(copy)]) for name in names)
