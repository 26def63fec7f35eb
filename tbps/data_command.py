"""`tbps data`: make, check, pack and index data sets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from tbps.config.data import Benchmark
from tbps.doctor_command import add_arguments as add_doctor

CHUNKERS = ("auto", "spacy", "builtin")
LABEL_SETS = ("atr", "lip", "pascal")
BENCHMARKS = get_args(Benchmark)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands of `tbps data`."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_synth(commands)
    add_doctor(commands.add_parser("doctor", help="check a data set, or several; exit status 1 when one is not usable"))
    _add_split(commands)
    _add_shard(commands)
    _add_index(commands)
    _add_chunks(commands)
    _add_verify(commands)
    _add_vocabulary(commands)


def _add_synth(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    synth = commands.add_parser("synth", help="write a synthetic pedestrian world in the format of a benchmark")
    synth.add_argument("root", type=Path, help="new folder")
    synth.add_argument("--benchmark", choices=BENCHMARKS, default="cuhk-pedes")
    synth.add_argument("--identities", type=int, default=256, help="people; where every image is one: images")
    synth.add_argument("--seed", type=int, default=0)
    synth.add_argument("--workers", type=int, default=2)
    synth.add_argument("--image-px", type=int, nargs=2, default=(384, 128), metavar=("HEIGHT", "WIDTH"))
    synth.add_argument(
        "--twin-rate", type=float, default=0.25, help="share of people who differ from another in one attribute"
    )
    synth.add_argument("--wrong-detail-rate", type=float, default=0.05, help="share of mentioned attributes told wrongly")
    synth.add_argument("--no-parsing", action="store_true", help="write no human-parsing maps")
    synth.add_argument("--contact-sheet", type=Path, metavar="PNG", help="also draw some people with their captions")
    synth.set_defaults(run=_synth)


def _add_split(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    split = commands.add_parser("split", help="part your own pairs into train, val and test by identity")
    split.add_argument("file", type=Path, help="CSV file or JSON lines, as tbps/data/own_pairs.md tells, without splits")
    split.add_argument("out", type=Path, help="new file beside it, which also says the split of each line")
    for name in ("val", "test"):
        split.add_argument(
            f"--{name}", type=float, default=0.1, help="identities: a share below 1, or a whole number (default: 0.1)"
        )
    split.add_argument("--seed", type=int, default=0, help="another one parts them otherwise")
    split.set_defaults(run=_split)


def _add_shard(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    shard = commands.add_parser("shard", help="pack a data set into tar shards with an index")
    shard.add_argument("root", type=Path)
    shard.add_argument("out", type=Path, help="new folder")
    shard.add_argument("--benchmark", choices=BENCHMARKS, required=True)
    shard.add_argument("--split", action="append", default=[], help="only this split (repeat for several)")
    shard.add_argument("--shard-mb", type=int, default=256)
    shard.add_argument("--workers", type=int, default=2)
    shard.add_argument(
        "--chunks", choices=CHUNKERS, help="also find the attribute chunks of the training captions, as tbps data chunks"
    )
    shard.add_argument(
        "--parsing", action="append", choices=LABEL_SETS, default=[], help="take these parsing maps along (repeat for more)"
    )
    shard.set_defaults(run=_shard)


def _add_index(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    index = commands.add_parser(
        "index", help="index tar shards of other webdataset tools, or our older ones, where they lie"
    )
    index.add_argument("root", type=Path, help="folder of the tars; they stay as they are")
    index.add_argument("--benchmark", choices=BENCHMARKS, help="what they hold (not for our own shards)")
    index.add_argument("--split", default="train", help="which split they are; call again for another one")
    index.add_argument("--tars", default="*.tar", metavar="PATTERN", help="which files below the folder")
    index.add_argument(
        "--image-key", action="append", default=[], metavar="EXT", help="extension of images (repeat for more)"
    )
    index.add_argument("--caption-key", default="txt", metavar="EXT[:FIELD]", help="txt, or a field of JSON: json:caption")
    index.add_argument("--identity-key", default="", metavar="EXT[:FIELD]", help="whom an image shows: json:id")
    index.add_argument("--workers", type=int, default=2)
    index.set_defaults(run=_index)


def _add_chunks(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    chunks = commands.add_parser(
        "chunks",
        help="find attribute chunks of shards' training captions, keep them there; goes on where it stopped",
    )
    chunks.add_argument("root", type=Path, help="shard folder")
    chunks.add_argument("--chunker", choices=CHUNKERS, default="auto", help="as --data.captioning.chunker")
    chunks.add_argument(
        "--cleaning", choices=("space", "delete", "none"), default="space", help="as --data.captioning.cleaning"
    )
    chunks.add_argument("--workers", type=int, default=2)
    chunks.set_defaults(run=_chunks)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = commands.add_parser("verify", help="compare shards with the sha256 in their index")
    verify.add_argument("root", type=Path)
    verify.set_defaults(run=_verify)


def _add_vocabulary(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    vocabulary = commands.add_parser("vocabulary", help="train a WordPiece vocabulary on the captions of data sets")
    vocabulary.add_argument("out", type=Path, help="vocab.txt to write")
    vocabulary.add_argument("data", nargs="+", metavar="BENCHMARK=ROOT", help="data sets whose training captions are read")
    vocabulary.add_argument("--size", type=int, default=600)
    vocabulary.set_defaults(run=_vocabulary)


def _synth(given: argparse.Namespace) -> None:
    from tbps.synthetic.world import write_world

    summary = write_world(
        given.root,
        benchmark=given.benchmark,
        num_identities=given.identities,
        seed=given.seed,
        workers=given.workers,
        image_px=tuple(given.image_px),
        wrong_detail_rate=given.wrong_detail_rate,
        twin_rate=given.twin_rate,
        parsing=not given.no_parsing,
    )
    splits = ", ".join(f"{name} {size}" for name, size in summary.split_identities.items())
    sys.stdout.write(
        f"{summary.root}: {summary.num_pairs} pairs of {summary.num_images} images, {summary.num_identities} people"
        f" ({splits}), {summary.num_twins} of them twins in all but one attribute\n"
    )
    if given.contact_sheet:
        from tbps.synthetic.contact_sheet import contact_sheet

        contact_sheet(given.root, given.contact_sheet, benchmark=given.benchmark)
        sys.stdout.write(f"contact sheet: {given.contact_sheet}\n")


def _split(given: argparse.Namespace) -> None:
    from tbps.data.splitting import split_pairs

    counts = split_pairs(given.file, given.out, val=given.val, test=given.test, seed=given.seed)
    told = (
        f"{name} {count.identities} identities, {count.images} images, {count.captions} captions"
        for name, count in counts.items()
    )
    sys.stdout.write(f"{given.out}: {'; '.join(told)} (seed {given.seed})\n")


def _shard(given: argparse.Namespace) -> None:
    from tbps.data.shard_index import INDEX_NAME
    from tbps.data.shard_writer import write_shards

    if given.chunks and (given.out / INDEX_NAME).exists():
        raise ValueError(
            f"{given.out} holds whole shards already; tbps data chunks {given.out} finds their attribute chunks"
        )
    index = write_shards(
        given.root,
        given.benchmark,
        given.out,
        splits=given.split,
        shard_mb=given.shard_mb,
        workers=given.workers,
        parsing=given.parsing,
    )
    for name, split in index.items():
        sys.stdout.write(f"{given.out}: {name}: {split.num_pairs} pairs in {len(split.shards)} shards\n")
    if given.chunks:
        from tbps.data.shard_chunks import add_chunks

        found_by = add_chunks(given.out, kind=given.chunks, workers=given.workers)
        sys.stdout.write(f"{given.out}: train: attribute chunks found by {found_by}\n")


def _chunks(given: argparse.Namespace) -> None:
    from tbps.data.shard_chunks import add_chunks

    found_by = add_chunks(given.root, kind=given.chunker, cleaning=given.cleaning, workers=given.workers)
    sys.stdout.write(f"{given.root}: train: attribute chunks found by {found_by}\n")


def _index(given: argparse.Namespace) -> None:
    from tbps.data.tar_index import IMAGE_KEYS, Keys, index_tars, upgrade

    if given.benchmark is None:
        upgraded = upgrade(given.root)
        sys.stdout.write(
            f"{given.root}: {', '.join(upgraded) + ' indexed anew' if upgraded else 'the index is up to date'}\n"
        )
        return
    image = tuple(key.lstrip(".").lower() for key in given.image_key) or IMAGE_KEYS
    keys = Keys(image=image, caption=given.caption_key, identity=given.identity_key)
    split = index_tars(given.root, given.benchmark, split=given.split, tars=given.tars, keys=keys, workers=given.workers)
    sys.stdout.write(
        f"{given.root}: {given.split}: {split.num_pairs} pairs of {split.num_images} images,"
        f" {split.num_identities} identities, in {len(split.shards)} shards\n"
    )


def _verify(given: argparse.Namespace) -> int:
    from tbps.data.shard_chunks import check_chunks
    from tbps.data.shards import verify_shards

    problems = verify_shards(given.root) + check_chunks(given.root)
    sys.stdout.write("\n".join(problems or [f"{given.root}: every shard is as its index says"]) + "\n")
    return 1 if problems else 0


def _vocabulary(given: argparse.Namespace) -> None:
    from tbps.data.annotations import read_annotations
    from tbps.text.word_pieces import train_vocabulary

    captions: list[str] = []
    for item in given.data:
        benchmark, _, root = item.partition("=")
        if benchmark not in BENCHMARKS or not root:
            raise ValueError(f"{item!r} names no data set, expected BENCHMARK=ROOT with one of {', '.join(BENCHMARKS)}")
        captions += read_annotations(Path(root), benchmark).split("train").caption
    trained = train_vocabulary(captions, size=given.size, path=given.out)
    sys.stdout.write(f"{given.out}: {trained.size} word pieces from {len(captions)} captions\n")
