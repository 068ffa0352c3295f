"""The errors that an editor of INRs lies between: networks as they are, and networks fitted to the edited images.

python scripts/edit_bounds.py experiment=edit_small                            # zoo and edit as in that experiment
python scripts/edit_bounds.py task=inr_edit zoo=siren_cifar10 zoo.num_images=6000 task.edit=contrast --count 500

Builds the zoo if it isn't there, fits a network to each edited test image (a zoo of 5,000 steps: 12 a second on 2
cores), and writes results/inr_edit/{identity,own_fit}-<zoo>-<edit>-<recipe>-<images>.json, in the form of a run's
summary. Model and training in the config make no difference here. Files of another dataset, split or zoo file are not
overwritten: name another --out.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from nfbench.config import errors, register
from nfbench.config.schema import CONF

RESULTS = Path(__file__).resolve().parents[1] / "results" / "inr_edit"


def main(arguments: list[str]) -> None:
    """Does what the command line says.

    Raises:
        ValueError: whatever the person who typed it can put right.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(f"{__doc__}\n--count N: only the first N test images; --out FOLDER: where the files go")
        return
    options: dict[str, str] = {}
    words = iter(arguments)
    overrides = []
    for word in words:
        if word in ("--count", "--out"):
            options[word] = next(words, "")
        elif word.startswith("-"):
            raise ValueError(f"there is no option {word}: it takes --count, --out, and overrides as run.py has them")
        else:
            overrides.append(word)
    count = options.get("--count")
    if count is not None and not count.isdigit():
        raise ValueError(f"--count {count} must be a whole number")
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides)
    if "edit" not in cfg.task:
        raise ValueError(f"task={cfg.task.name} edits nothing: add task=inr_edit, or an experiment that has it")
    for path in bounds(cfg, int(count) if count else None, Path(options.get("--out") or RESULTS), arguments):
        print(f"wrote {path}")


def bounds(cfg: DictConfig, count: int | None, out: Path, arguments: list[str]) -> list[Path]:
    """Computes both, prints them, and writes their files.

    Raises:
        ValueError: as `edit_bounds`; files that are there and say something of other data.
    """
    from nfbench.config.build import build_zoo  # here, so that --help and typos import no torch
    from nfbench.zoos.edit_bounds import BOUNDS, edit_bounds

    zoo = build_zoo(cfg.zoo)
    if not hasattr(zoo, "edits"):
        raise ValueError(f"zoo={cfg.zoo.name} has no images to edit: choose one of INRs, such as zoo=siren_mnist")
    zoo.prepare_data()
    zoo.setup()
    out.mkdir(parents=True, exist_ok=True)
    ending = f"{cfg.zoo.name}-{cfg.task.edit}-{zoo.recipe.hash[:8]}-{count or len(zoo.split.test)}.json"
    paths = {name: out / f"{name}-{ending}" for name in BOUNDS}
    about = {"zoo": cfg.zoo.name, "seed": cfg.zoo.get("zoo_seed", 0), **zoo.protocol}
    for path in paths.values():
        check_same(path, about)
    start = time.perf_counter()
    both = edit_bounds(zoo, cfg.task.edit, count)
    wall_s = round(time.perf_counter() - start, 2)
    for name, found in both.items():
        mse = float(found.double().mean())
        print(f"{name:<10} MSE {mse:.4f} on [-1, 1], {mse / 4:.4f} on [0, 1]   ({len(found):,} test images)")
        summary: dict[str, Any] = {
            "task": "inr_edit",
            "model": name,
            **about,
            "measured": len(found),
            "metric": "test/mse",
            "metrics": {"test/mse": mse, "test/mse_unit": mse / 4},
            "wall_s": wall_s,  # of both
            "machine": {"cores": os.cpu_count(), "threads": zoo.threads or os.cpu_count(), "gpu": None},
            "command": " ".join(["python", "scripts/edit_bounds.py", *arguments]),
            "config": {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("task", "zoo")},
        }
        paths[name].write_text(json.dumps(summary, indent=1) + "\n")
    return list(paths.values())


def check_same(path: Path, about: dict[str, Any]) -> None:
    """Raises ValueError where ``path`` is there and is of other data than ``about`` says: names do not tell them apart.

    Other versions may say more or less, so only what both say is compared.
    """
    if not path.exists():
        return
    try:
        found = dict(json.loads(path.read_text()))
        differ = [key for key in about.keys() & found.keys() if found[key] != json.loads(json.dumps(about[key]))]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is there and cannot be read ({error}): move it away, or name another --out"
        ) from error
    if differ:
        lines = "".join(f"\n  {key}: there {found[key]}, now {about[key]}" for key in sorted(differ))
        raise ValueError(f"{path} is there, of other data:{lines}\nMove it away, or name another --out.")


if __name__ == "__main__":
    with errors.one_screen():
        try:
            main(sys.argv[1:])
        except KeyboardInterrupt:
            sys.exit(130)
