"""A CUHK-PEDES run on the other two benchmarks: what changes there, for every recipe."""

from __future__ import annotations

from dataclasses import replace

from tbps.config.run import Run


def on_icfg_pedes(cuhk_pedes: Run) -> Run:
    """As CUHK-PEDES. There is no val split: the last checkpoint is tested."""
    return replace(
        cuhk_pedes,
        name="icfg-pedes",
        data=replace(cuhk_pedes.data, benchmark="icfg-pedes", root="data/ICFG-PEDES"),
        evaluation=replace(cuhk_pedes.evaluation, selection="last", every_epochs=0),
    )


def on_rstpreid(cuhk_pedes: Run) -> Run:
    """As CUHK-PEDES; RSTPReid is smaller, so fewer steps an epoch."""
    return replace(cuhk_pedes, name="rstpreid", data=replace(cuhk_pedes.data, benchmark="rstpreid", root="data/RSTPReid"))
