"""Two real processes, each with a cache of its own as on two machines, find and exchange the chunks of a corpus."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from test_chunk_store import CAPTIONS, PORTIONS, Counting

from tbps.config.data import Captioning
from tbps.data.chunk_sharing import share_chunks
from tbps.data.chunk_store import ChunkStore, KeptChunks
from tbps.data.opening import agree_on_chunker
from tbps.text.chunks import BuiltinChunker
from tbps.training.distributed import Team
from tbps.training.process_end import end_process

PATIENCE_S = 5.0
CAPTIONING = Captioning(vocabulary="", max_words=50, max_tokens=50)


def _child(folder: Path) -> None:
    Accelerator(cpu=True, kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=PATIENCE_S))])
    team = Team.current()
    report: dict[Any, Any] = {}
    for turn, place in enumerate(("first", "first", "first" if team.rank == 0 else "second")):
        store = ChunkStore(folder / f"node-{team.rank}" / place, portions=PORTIONS)
        # The first process takes longer than a collective waits.
        chunker = Counting(slow_s=0.0 if team.rank else 2.5 * PATIENCE_S / len(CAPTIONS))
        share_chunks(store, lambda: CAPTIONS, chunker, team)
        kept = KeptChunks(store.files, name=chunker.name)
        right = list(kept.words(CAPTIONS)) == list(BuiltinChunker().words(CAPTIONS))
        report[turn] = {"asked": chunker.asked, "right": right}
    if team.rank == 1:  # the second machine alone has spaCy's model
        sys.path.insert(0, str(folder))
    for kind in ("builtin", "auto", "spacy"):
        try:
            report[kind] = agree_on_chunker(replace(CAPTIONING, chunker=kind), team).chunker_name
        except ValueError as error:
            report[kind] = str(error)
    (folder / f"{team.rank}.json").write_text(json.dumps(report))


def _install_model(folder: Path) -> None:
    (folder / "en_core_web_sm").mkdir()
    (folder / "en_core_web_sm" / "__init__.py").touch()
    (folder / "en_core_web_sm-9.8.7.dist-info").mkdir()
    words = "Metadata-Version: 2.1\nName: en_core_web_sm\nVersion: 9.8.7\n"
    (folder / "en_core_web_sm-9.8.7.dist-info" / "METADATA").write_text(words)


@pytest.mark.slow
@pytest.mark.skipif(bool(find_spec("en_core_web_sm")), reason="spaCy's model is installed here, so no process can lack it")
def test_each_machine_ends_with_all_chunks_found_once_by_one_chunker(tmp_path: Path) -> None:
    _install_model(tmp_path)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", __file__, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(words, env=environment, timeout=120, check=True)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    # Nobody waits in a collective for the first one, which needs longer; both find something, nobody the same.
    assert sorted(first["0"]["asked"] + second["0"]["asked"]) == sorted(CAPTIONS)
    assert min(len(first["0"]["asked"]), len(second["0"]["asked"])) > len(CAPTIONS) / 4
    # All is there; then one machine is new and is given a copy.
    assert [report[turn]["asked"] for report in (first, second) for turn in ("1", "2")] == [[], [], [], []]
    assert all(report[turn]["right"] for report in (first, second) for turn in ("0", "1", "2"))
    host, spacy = platform.node(), BuiltinChunker().name.partition(", ")[2]
    assert first["builtin"] == second["builtin"] == BuiltinChunker().name
    assert first["auto"] == second["auto"]
    finders = f"{BuiltinChunker().name} on {host} and by en_core_web_sm 9.8.7, {spacy} on {host}"
    assert first["auto"].startswith(f"attribute chunks would be found by {finders}, expected one finder")
    assert first["auto"].endswith("install the same on all machines, or set --data.captioning.chunker builtin")
    missing = f"spaCy model en_core_web_sm is not installed on {host}"
    assert first["spacy"].startswith(missing)
    assert second["spacy"].startswith(f"rank 0 on {host} failed while looking for the finder of attribute chunks: {missing}")


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
    end_process(0)
