"""Builds a zoo, whole or in shards, joins shards, and looks at zoos; configs and overrides are those of run.py.

python scripts/build_zoo.py zoo=siren_mnist zoo.num_images=2000             # the zoo that run.py would build
python scripts/build_zoo.py zoo=siren_mnist zoo.num_images=2000 shard=3/16  # the third of 16 parts: 1/16, ... 16/16
python scripts/build_zoo.py merge zoo=siren_mnist zoo.num_images=2000       # checks and joins the parts
python scripts/build_zoo.py inspect zoo=siren_mnist zoo.num_images=2000     # counts, statistics, PSNR, a picture
python scripts/build_zoo.py inspect data/zoos/mnist-nfn-published.h5        # of any zoo file
"""

import json
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from nfbench.allocator import keep_freed_memory
from nfbench.config import errors, register
from nfbench.config.schema import CONF, options
from nfbench.config.words import is_zoo_file

COMMANDS = ("build", "merge", "inspect")


def main(arguments: list[str]) -> None:
    """Does what the command line says.

    Raises:
        ValueError: whatever the person who typed it can put right.
    """
    register()
    if {"-h", "--help"} & set(arguments):
        zoos = ", ".join(name for name in options()["zoo"] if not name.endswith("_schema"))
        print(f"{__doc__}\nzoo is one of: {zoos}\npython run.py --help lists all keys")
        return
    keep_freed_memory()
    command = "build"
    if arguments and "=" not in arguments[0]:
        command, *arguments = arguments
    if command not in COMMANDS:
        near = errors.did_you_mean(command, COMMANDS)
        raise ValueError(f"there is no command `{command}`{near}\n  It is one of: {', '.join(COMMANDS)}")
    shards = [text for text in arguments if text.startswith("shard=")]
    files = [text for text in arguments if is_zoo_file(text)]
    if len(shards) > (command == "build"):
        raise ValueError(f"{command} takes {'one' if command == 'build' else 'no'} shard=...: leave out {shards[-1]}")
    if files and command != "inspect":
        raise ValueError(f"{command} takes no file: say which zoo with zoo=..., not {files[0]}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", [text for text in arguments if text not in (*shards, *files)])
    run(command, cfg, shards[0].partition("=")[2] if shards else None, Path(files[0]) if files else None)


def run(command: str, cfg: DictConfig, shard: str | None, file: Path | None) -> None:
    """One command on the zoo of a config, or on a file."""
    from nfbench.config.build import build_zoo  # here, so that --help and typos import no torch

    if file is not None:
        inspect(file, cfg.data_dir, None)
        return
    if cfg.threads:  # what no kernel trains, torch does
        import torch

        torch.set_num_threads(cfg.threads)
    zoo = build_zoo(cfg.zoo)
    if not hasattr(zoo, "plan"):
        raise ValueError(f"zoo={cfg.zoo.name} is not built here, but imported: see data/README.md")
    if command == "inspect":
        inspect(zoo.path, cfg.data_dir, zoo.plan.manifest())
    elif command == "merge":
        from nfbench.zoos.shards import merge_shards

        data = merge_shards(zoo.path, zoo.plan, zoo.data_dir)
        print(f"zoo {zoo.path}: {len(data.label)} networks, whole and checked")
    elif shard is not None:
        from nfbench.zoos.shards import Shard, build_shard

        print(build_shard(zoo.path, zoo.plan, Shard.parse(shard), zoo.data_dir, zoo.threads, zoo.fit_device))
    else:
        there = zoo.path.exists()
        zoo.prepare_data()
        if there:
            print(f"zoo {zoo.path}: there already, whole")


def inspect(path: Path, data_dir: str, expected: dict | None) -> None:
    """Prints what is in a zoo, and writes `<name>.inspect.json` and `<name>.inspect.png` beside it."""
    from nfbench.report.zoo import describe, draw
    from nfbench.zoos.statistics import inspect_zoo

    found = inspect_zoo(path, data_dir, expected)
    print(describe(found.facts))
    note, picture = path.with_suffix(".inspect.json"), path.with_suffix(".inspect.png")
    note.write_text(json.dumps(found.facts, indent=1) + "\n")
    drawn = draw(picture, path.stem, found.psnr, found.rows, found.originals, found.renderings)
    print(f"wrote {note}" + (f" and {picture}" if drawn else ""))


if __name__ == "__main__":
    with errors.one_screen():
        try:
            main(sys.argv[1:])
        except KeyboardInterrupt:
            sys.exit(130)
