"""One zoo built side by side by many processes or machines: shards of its chunks, and joining them.

All shards write to the one ``<name>.h5.partial/`` of a file system that they share. Shard k of N has every N-th chunk
from the k-th on. The first process decides how many networks a chunk has, whatever the others would have chosen. Each
chunk has a lock, so a shard that is started twice shares its work, and one that was killed leaves nothing locked. Whole
builds and merging have the zoo alone: they wait until no shard is being built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nfbench.zoos.build import Build, Plan, Progress
from nfbench.zoos.store import ZooData, build_lock, file_errors, file_lock, read_zoo, write_atomically

NAMED = 20  # missing shards that an error names


@dataclass(frozen=True)
class Shard:
    """Part ``number`` of ``count``, from 1 on."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Reads ``3/16``.

        Raises:
            ValueError: anything else.
        """
        parts = text.split("/")
        if len(parts) == 2 and all(part.isascii() and part.isdigit() for part in parts):
            number, count = map(int, parts)
            if 1 <= number <= count:
                return cls(number, count)
        raise ValueError(f"shard={text} is no shard: give number/count, numbered from 1, such as 1/16, ... 16/16.")

    def chunks(self, num_chunks: int) -> range:
        """The numbers, from 0, of its chunks."""
        return range(self.number - 1, num_chunks, self.count)

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def build_shard(
    path: Path, plan: Plan, shard: Shard, data_dir: str, threads: int | None = None, device: str = "cpu"
) -> str:
    """Builds the chunks of one shard that aren't there, and says in one line what was done.

    Args:
        path: the HDF5 file that the whole zoo will be.
        plan: which zoo.
        shard: which part.
        data_dir: where the plan's data is.
        threads: of the fit; None: one a core.
        device: ``cpu`` or a GPU's name.

    Raises:
        ValueError: as `open_zoo`.
    """
    with build_lock(path, shared=True):
        if path.exists():
            read_zoo(path, plan.manifest())
            return f"shard {shard}: nothing to do, the whole zoo is there: {path}"
        build = plan.start_build(path, data_dir, threads, device, num_shards=shard.count)
        partial = build.partial
        with file_errors(path):
            write_atomically(_count_file(path, shard), lambda file: file.touch())
        mine = shard.chunks(partial.num_chunks)
        with build.progress(f"shard {shard} of zoo {path.stem}", mine) as progress:
            taken = [number for number in mine if not _finish(build, number, progress, wait=False)]
            for number in taken:  # once more for those that another process had: it may have been killed
                _finish(build, number, progress, wait=True)
        there = partial.num_finished()
        left = f"{there} of {partial.num_chunks} chunks of the zoo are there"
        if there == partial.num_chunks:
            left = "all chunks of the zoo are there: merge joins them"
        return f"shard {shard} of zoo {path}: {progress.summary()}; {left}"


def _finish(build: Build, number: int, progress: Progress, wait: bool) -> bool:
    """Finishes a chunk unless another process is at it and we are not to wait for that."""
    chunk = build.partial.chunk_path(number)
    message = f"waiting: another process is building {chunk}"
    with file_lock(chunk.with_suffix(".lock"), wait=wait, message=message) as held:
        if held:
            build.finish_chunk(number, progress)
    return held


def merge_shards(path: Path, plan: Plan, data_dir: str) -> ZooData:
    """Checks all chunks, joins them into the zoo's file, and reads that; a zoo that is whole already is only read.

    Raises:
        ValueError: shards that are not finished, by name; a chunk that is damaged or holds other networks; as
            `open_zoo`.
    """
    with build_lock(path):
        if not path.exists():
            if not path.with_name(path.name + ".partial").is_dir():
                raise ValueError(f"nothing of {path} has been built yet. Build its shards first: shard=1/16, ...")
            build = plan.start_build(path, data_dir, None, "cpu")
            _check_all(build)
            build.assemble()
    return read_zoo(path, plan.manifest())


def _check_all(build: Build) -> None:
    partial = build.partial
    chunks = range(partial.num_chunks)
    missing = [number for number in chunks if not partial.chunk_path(number).exists()]
    counts = sorted(int(file.suffix[1:]) for file in partial.folder.glob("shards.*"))
    if missing and len(counts) != 1:
        how = f"shards of several counts were built here: {', '.join(map(str, counts))}" if counts else "no shard= was"
        raise ValueError(
            f"{len(missing)} of {len(chunks)} chunks of {build.path} are missing ({how}). Build without merge and "
            "without shard=...: that goes on from the chunks that are there, and joins them."
        )
    if missing:
        shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
        lacks = {str(shard): len(set(missing) & set(shard.chunks(len(chunks)))) for shard in shards}
        named = [f"{name} ({count} of its chunks)" for name, count in lacks.items() if count]
        more = f" and {len(named) - NAMED} more" if len(named) > NAMED else ""
        raise ValueError(
            f"{build.path} cannot be merged, {len(missing)} of {len(chunks)} chunks are missing. Build these shards, "
            f"then merge again: {', '.join(named[:NAMED])}{more}."
        )
    for number in chunks:
        build.check_chunk(number)


def _count_file(path: Path, shard: Shard) -> Path:
    """An empty file whose name says how many shards there are."""
    return path.with_name(path.name + ".partial") / f"shards.{shard.count}"
