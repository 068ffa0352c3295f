"""Flatness, Jacobian norms, margins and weight norms of a zoo of classifiers, and their rank correlation with accuracy.

python scripts/measure_zoo.py data/zoos/small_cnn_cifar10.h5
python scripts/measure_zoo.py zoo=cnn_fashion --images 1024 --device cuda

Writes <zoo>.measures.h5 (columns aligned with the zoo's rows) and <zoo>.measures.json (the table) beside the zoo. Needs
data: it reads training images. A run that was killed goes on when the same command runs again.
"""

import argparse
import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from scipy.stats import kendalltau
from tqdm import tqdm

from nfbench.allocator import keep_freed_memory
from nfbench.config import errors, register
from nfbench.config.build import build_zoo
from nfbench.config.schema import CONF
from nfbench.config.words import is_zoo_file
from nfbench.measures import MEASURES, Settings, measure
from nfbench.weightspace import NetworkSpec
from nfbench.zoos.classifiers import split_runs
from nfbench.zoos.measures import Columns, PartialMeasures, measures_lock, read_measures, training_sample
from nfbench.zoos.store import ZooData, fingerprint, read_zoo

CHUNK = 64  # networks between two writes
HELP = {
    "images": "how many training images",
    "seed": "of the directions and the start of Lanczos, and which sample of images",
    "directions": "random directions of the sharpness",
    "radius": "of the sharpness, as a share of each filter's length",
    "biases": "directions move biases as well",
    "tolerance": "of the largest eigenvalue, relative",
    "max_steps": "of Lanczos, at most",
    "jacobian_images": "the first so many of the sample, for Jacobians",
    "stride": "of the networks' convolutions",
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line; the measures' settings have the defaults of `nfbench.measures.Settings`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", nargs="+", help="the zoo's file, or zoo=... and other overrides as for run.py")
    for field in fields(Settings):
        option = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(option, action="store_true", help=HELP[field.name])
        else:
            text = f"{HELP[field.name]} ({field.default})"
            parser.add_argument(option, type=type(field.default), default=field.default, help=text)
    parser.add_argument("--all-steps", action="store_true", help="every checkpoint, not only the last of each run")
    parser.add_argument("--batch", type=int, default=4, help="networks at once (4; more on a GPU)")
    parser.add_argument("--source", help="of the images, if the file doesn't say: digits, mnist, fashion, cifar10")
    parser.add_argument("--data-dir", default="data", help="where the images are (data)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, help="the file to write (<zoo>.measures.h5)")
    return parser.parse_args(arguments)


def zoo_path(words: list[str]) -> Path:
    """The file that is named, or that of `zoo=...`, built or looked for as run.py would.

    Raises:
        ValueError: neither, or no such file.
    """
    if len(words) == 1 and ("=" not in words[0] or is_zoo_file(words[0])):
        if not Path(words[0]).is_file():
            raise ValueError(f"there is no zoo {words[0]}: give its HDF5 file, or zoo=... as for run.py")
        return Path(words[0])
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        zoo = build_zoo(compose("config", words).zoo)
    zoo.prepare_data()
    return zoo.path


def main(arguments: list[str]) -> None:
    """Does what the command line says.

    Raises:
        ValueError: whatever the person who typed it can put right.
    """
    args = parse(arguments)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    if args.batch < 1:
        raise ValueError(f"--batch {args.batch} must be 1 or more")
    path = zoo_path(args.zoo)
    data = read_zoo(path)
    spec = NetworkSpec.parse(data.manifest["spec"])
    if "test_accuracy" not in data.extra:
        raise ValueError(f"{path} has no column test_accuracy: these measures are of classifiers, got {spec}")
    source = args.source or str(data.manifest.get("source"))
    pixels, labels, sha256 = training_sample(source, args.data_dir, settings.images, settings.seed)
    activation = data.extra.get("config.activation", np.full(len(data.label), spec.activation))
    rows = np.arange(len(data.label))
    if not args.all_steps and "step" in data.extra:
        rows = rows[data.extra["step"] == data.extra["step"].max()]
    about: dict[str, Any] = {
        "zoo": fingerprint(data.attributes),
        "settings": asdict(settings) | {"images": len(labels)},
        "images": {"source": source, "sha256": sha256, "part": "training"},
        "steps": "all" if args.all_steps else "final",
        "access": "weights and training images (needs data)",
    }
    out = args.out or path.with_suffix(".measures.h5")
    with measures_lock(out):
        if out.exists():
            columns, found = read_measures(out)
            if found != about:
                raise ValueError(
                    f"{out} has measures of other settings or another zoo: move it away, or choose an --out"
                )
            print(f"{out}: there already, whole")
        else:
            keep_freed_memory()
            device = torch.device(args.device)
            x, y = torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device)
            chunks = np.array_split(rows, -(-len(rows) // CHUNK))
            partial = PartialMeasures(out, about, len(chunks))
            missing = partial.missing()
            done = sum(map(len, chunks)) - sum(len(chunks[number]) for number in missing)
            with tqdm(total=len(rows), initial=done, unit="network", disable=None) as bar:
                for number in missing:
                    some = chunks[number]
                    part = measure_chunk(spec, data.params[some], activation[some], (x, y), settings, args.batch, bar)
                    partial.write(number, part)
            columns = partial.assemble(rows, len(data.label))
            print(f"wrote {out}: {len(columns)} measures of {len(rows)} networks on {len(labels)} images")
    table = rank(data, columns, rows)
    out.with_suffix(".json").write_text(json.dumps({"about": about, **table}, indent=1) + "\n")
    print(show(table))
    print(f"wrote {out.with_suffix('.json')}")


def measure_chunk(
    spec: NetworkSpec,
    params: NDArray[np.float32],
    activation: NDArray[np.str_],
    images: tuple[torch.Tensor, torch.Tensor],
    settings: Settings,
    batch: int,
    bar: tqdm,
) -> Columns:
    """The measures of networks (n, T), each with its own activation, so many at once, on the images' device."""
    part: Columns = {}
    for name in np.unique(activation):
        where = np.flatnonzero(activation == name)
        for some in np.array_split(where, -(-len(where) // batch)):
            networks = torch.from_numpy(params[some]).to(images[0].device)
            for key, values in measure(replace(spec, activation=str(name)), networks, *images, settings).items():
                part.setdefault(key, np.full(len(params), np.nan, np.float32))[some] = values.cpu()
            bar.update(len(some))
    return part


def rank(data: ZooData, columns: Columns, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Kendall's tau-b of each measure with test accuracy and with the generalisation gap, of the test runs."""
    accuracy = data.extra["test_accuracy"]
    rows = rows[np.isfinite(accuracy[rows])]
    part = data.extra["split"][rows] if "split" in data.extra else None
    split, rule = split_runs(data.index[rows], part)
    rows = rows[np.isin(data.index[rows], split.test)]  # by run: in the authors' split only final networks have a part
    gap = data.extra["train_accuracy"] - accuracy if "train_accuracy" in data.extra else np.full(len(accuracy), np.nan)
    groups = data.extra.get("config.activation", np.full(len(accuracy), ""))

    def tau(values: NDArray[Any], target: NDArray[Any], among: NDArray[np.int64]) -> float | None:
        among = among[np.isfinite(values[among]) & np.isfinite(target[among])]
        if len(among) < 2:
            return None
        found = float(kendalltau(values[among], target[among]).statistic)
        return found if np.isfinite(found) else None  # one value for all networks: no order

    table = []
    for name, values in columns.items():
        line: dict[str, Any] = {"measure": name, "expected_sign": MEASURES[name][1]}
        line["networks"] = int(np.isfinite(values[rows]).sum())
        line["tau_accuracy"], line["tau_gap"] = tau(values, accuracy, rows), tau(values, gap, rows)
        for group in np.unique(groups[rows]):
            line[f"tau_accuracy_{group}"] = tau(values, accuracy, rows[groups[rows] == group])
        table.append(line)
    table.sort(key=lambda line: -abs(line["tau_accuracy"] or 0))
    return {"split": rule, "test_networks": len(rows), "table": table}


def show(table: dict[str, Any]) -> str:
    """The table as text, the strongest correlation first."""
    groups = [key for key in table["table"][0] if key.startswith("tau_accuracy_") and key != "tau_accuracy_"]
    names = ["tau_accuracy", "tau_gap", *groups]
    lines = [
        f"Kendall's tau-b on {table['test_networks']} test networks (split: {table['split']}); needs data",
        "tau_accuracy > 0: larger with higher test accuracy; tau_gap > 0: larger with larger train - test accuracy",
        f"{'measure':<22} expected {' '.join(f'{name:>18}' for name in names)}   networks",
    ]
    for line in table["table"]:
        values = " ".join(f"{'-' if line[name] is None else f'{line[name]:+.3f}':>18}" for name in names)
        sign = {1: "+", -1: "-", 0: ""}[line["expected_sign"]]
        lines.append(f"{line['measure']:<22} {sign:^8} {values}   {line['networks']:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    with errors.one_screen():
        try:
            main(sys.argv[1:])
        except KeyboardInterrupt:
            sys.exit(130)
