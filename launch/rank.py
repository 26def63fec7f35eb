"""What every Slurm task runs: `srun python -m launch.rank [--accelerate zero2] recipes/mars.py tiny [overrides]`.

One task per GPU, and no torchrun between Slurm and the ranks. So the signals of a time limit or a preemption reach every
rank (torchrun hands on SIGTERM late and USR2 not at all), srun sees which rank on which node died and ends the others,
and exit statuses are those of the ranks: 0 done, 2 the user's error, 143 stopped as asked with all saved, 75 another rank
was lost. `launch.requeue`, called by the batch script when srun has ended, turns the last two into a restart.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from launch.accelerate_settings import launch_environment
from launch.slurm_job import SlurmJob, address_of_first_node
from tbps.recipe_command import read_overrides, recipe_command
from tbps.training.importing import importing
from tbps.training.process_end import end_process
from tbps.training.stop_signals import LOST_EXIT, TERMINATE_EXIT, StopSignals

if TYPE_CHECKING:
    from tbps.runs.run_folder import RunFolder

_PORTS = range(20_000, 32_000)  # below those that clients are given by chance


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command line."""
    parser = argparse.ArgumentParser(prog="launch.rank", description=__doc__.partition("\n")[0])
    parser.add_argument("--accelerate", default="", help="name in launch/accelerate/, or a file of `accelerate config`")
    parser.add_argument("recipe", help="such as recipes/mars.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="variant and overrides of the recipe")
    given = parser.parse_args(arguments)
    end_process(run_task([given.recipe, *given.arguments], given.accelerate))


def run_task(arguments: list[str], accelerate: str = "") -> int:
    """Be one rank of the recipe `arguments[0]`, in this process; return the exit status. The main thread calls it.

    accelerate: settings as in `settings_file`; "" = plain DDP, precision as the recipe says. The batch script around it must
    hold `launch.requeue.BATCH_LINE`: without it, a run that was stopped does not go on.
    """
    folder: RunFolder | None = None
    with StopSignals() as signals:

        def work() -> int:
            nonlocal folder
            with signals.at_once():  # until training asks for signals itself: the imports alone take seconds
                with importing(first=True):  # a task has done nothing else; Accelerate's settings import PyTorch
                    os.environ.update(rank_environment(os.environ, accelerate))
                folder = _announce(arguments)
                _run_recipe(arguments)
            return 1  # a recipe ends by SystemExit

        status = status_of(work, signals, program="launch.rank")
    settle(status, folder)
    return status


def status_of(work: Callable[[], int], signals: StopSignals, *, program: str) -> int:
    """Exit status of a task's work: what it returns or exits with; 2 after a ValueError, told in one sentence;
    `LOST_EXIT` where another task is lost. Where it fails after the task was asked to stop, that of the stop."""
    try:
        status = work()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except ValueError as error:
        sys.stderr.write(f"{program}: {error}\n")
        status = 2
    except BaseException as error:
        traceback.print_exc()
        status = LOST_EXIT if is_of_the_network(error) else 1
    return signals.requested or status if status else 0  # what fails in a stop must not forbid the restart


def rank_environment(slurm: Mapping[str, str], accelerate: str = "") -> dict[str, str]:
    """What torch.distributed and Accelerate read, from what srun has set. ValueError outside of srun."""
    if "SLURM_STEP_NUM_TASKS" not in slurm:
        raise ValueError(
            "this is not a task of srun (SLURM_STEP_NUM_TASKS is not set); start it by slurm/*.sh or launch.submit"
        )
    job, world_size = int(slurm["SLURM_JOB_ID"]), int(slurm["SLURM_STEP_NUM_TASKS"])
    # The restart before may still hold its port; neighbouring jobs are too far away to be met by a few restarts.
    port = _PORTS[(job * 13 + int(slurm.get("SLURM_RESTART_COUNT", "0"))) % len(_PORTS)]
    return {
        **launch_environment({}, accelerate, num_processes=world_size),
        "RANK": slurm["SLURM_PROCID"],
        "LOCAL_RANK": local_rank(slurm),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(tasks_per_node(slurm["SLURM_STEP_TASKS_PER_NODE"])[int(slurm["SLURM_NODEID"])]),
        "MASTER_ADDR": address_of_first_node(slurm["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": slurm.get("OMP_NUM_THREADS", "1"),  # as torchrun and Accelerate do
    }


def local_rank(slurm: Mapping[str, str]) -> str:
    """Which of the GPUs it sees a task takes. Some clusters show each task its own only, which is then the first."""
    visible = slurm.get("CUDA_VISIBLE_DEVICES", "")
    return "0" if visible and "," not in visible else slurm["SLURM_LOCALID"]


def tasks_per_node(text: str) -> list[int]:
    """Slurm's "2(x3),1" as [2, 2, 2, 1]."""
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in parts for _ in range(int(times or 1))]


def _announce(arguments: list[str]) -> RunFolder | None:
    """The first rank says which start this is; the folder of the run. None where the recipe will only print help."""
    first = os.environ["RANK"] == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s")
    job = SlurmJob.here()
    variants = _recipe(arguments[0])["VARIANTS"]
    asks_help = {"-h", "--help"} & set(arguments[1:])
    if not first or job is None or asks_help or len(arguments) < 2 or arguments[1] not in variants:
        return None
    run = read_overrides(variants[arguments[1]], arguments[2:], program=f"{Path(arguments[0]).name} {arguments[1]}")
    from launch.restarts import announce_start
    from tbps.runs.run_folder import RunFolder

    announce_start(RunFolder.of(run), job)
    return RunFolder.of(run)


def _run_recipe(arguments: list[str]) -> None:
    sys.argv = arguments
    recipe = _recipe(arguments[0])
    recipe_command(recipe["VARIANTS"], about=recipe["__doc__"] or "", arguments=arguments[1:])


def _recipe(file: str) -> dict[str, Any]:
    if not Path(file).is_file():
        raise ValueError(f"recipe {file} not found from {Path.cwd()}; submit from the folder that holds recipes/")
    recipe = runpy.run_path(file, run_name="recipe")
    if "VARIANTS" not in recipe:
        raise ValueError(f"{file} has no VARIANTS; expected a recipe such as recipes/mars.py")
    return recipe


def is_of_the_network(error: BaseException) -> bool:
    """A peer that cannot be reached, or a port that is taken: before training begins nobody watches over the others."""
    from torch.distributed import DistError

    # What gloo raises has no class of its own.
    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def settle(status: int, folder: RunFolder | None) -> None:
    """Before srun hears of the end: leave the cause of a stop for the next start, or see to it that there is none."""
    job = SlurmJob.here()
    if job is None or status == 0:
        return
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # srun's, because another rank ended first: no reason to leave this half done
    if status not in (TERMINATE_EXIT, LOST_EXIT):
        job.forbid_requeue()
    elif folder is not None:
        from launch.restarts import note_stop

        note_stop(folder, job, "lost rank" if status == LOST_EXIT else job.why_stopped())


if __name__ == "__main__":
    main()
