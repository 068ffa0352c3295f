"""Imports a published zoo into one HDF5 file; a killed import goes on when the same command runs again.

python scripts/import_zoo.py nfn siren_mnist_wts.tar --out data/zoos/mnist-nfn-published.h5
python scripts/import_zoo.py dws mnist-inrs.zip --out data/zoos/mnist-dws-published.h5
python scripts/import_zoo.py arena MNIST/SIREN --w0 8 --out data/zoos/mnist-arena.h5
python scripts/import_zoo.py small_cnn cifar10 --split-csv cifar10_split.csv --out data/zoos/small_cnn_cifar10.h5
python scripts/import_zoo.py folder my_nets --activation sine --out data/zoos/mine.h5
"""

import argparse
import sys
from pathlib import Path

from nfbench.zoos.importers import ArenaLayout, DwsLayout, FolderLayout, NfnLayout, SmallCnnLayout, import_zoo
from nfbench.zoos.importers.run import Layout

STEP = {"type": lambda text: None if text == "all" else int(text), "metavar": "N|all"}
LAYOUTS: dict[str, tuple[type[Layout], str, dict[str, dict]]] = {
    "nfn": (
        NfnLayout,
        "NFN's SIRENs: a tar, or its folder",
        {
            "source": {"help": "mnist, fashion, cifar10 or digits; else by the archive's name"},
            "spec": {"help": "another architecture than published, such as 2-8-8-1:sine"},
            "prefix": {"help": "of the folders' names (randinit_smaller)"},
        },
    ),
    "dws": (
        DwsLayout,
        "DWSNets' SIRENs: a zip or tar, or its folder",
        {
            "source": {"help": "mnist or fashion; else by the archive's name"},
            "spec": {"help": "another architecture than published"},
        },
    ),
    "arena": (
        ArenaLayout,
        "Neural Field Arena or fit-a-nef: a folder of .hdf5 files",
        {
            "source": {"help": "mnist, fashion or cifar10; else by the folder's name"},
            "w0": {"type": float, "help": "of the sines; else omega_0 of nef.json"},
            "num-signals": {"type": int, "help": "how many images there are; else the source's number"},
        },
    ),
    "small_cnn": (
        SmallCnnLayout,
        "Small CNN Zoo: the unpacked folder",
        {
            "step": {**STEP, "help": "only networks of this step (86, the last)"},
            "activation": {"help": "only networks with relu or tanh"},
            "split-csv": {"type": Path, "help": "NFN's order of the rows, for a column split"},
        },
    ),
    "folder": (
        FolderLayout,
        "any folder, tar or zip of state dicts with labels.csv",
        {
            "labels": {"type": Path, "help": "the table, if it isn't labels.csv in the folder"},
            "spec": {"help": "architecture, such as 1-16c3-10:relu; else by the first file's shapes"},
            "activation": {"help": "of the networks, where no spec is given (relu)"},
            "source": {"help": "what the networks are of; else the folder's name"},
        },
    ),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="layout", required=True, metavar="LAYOUT")
    for name, (_, text, options) in LAYOUTS.items():
        part = parts.add_parser(name, help=text, description=text, argument_default=argparse.SUPPRESS)
        part.add_argument("path", type=Path, help="archive or folder")
        part.add_argument("--out", type=Path, required=True, help="the HDF5 file to write")
        part.add_argument("--strict", action="store_true", help="stop at the first broken network")
        for option, how in options.items():
            part.add_argument(f"--{option}", **how)
    return parser.parse_args()


if __name__ == "__main__":
    args = vars(parse())
    layout, out, strict = args.pop("layout"), args.pop("out"), args.pop("strict", False)
    try:
        print(import_zoo(LAYOUTS[layout][0](**args), out, strict))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
