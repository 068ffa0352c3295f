"""Writes a zoo for other code: safetensors with a JSON, or the folders and .pth files of the NFN zoos.

python scripts/export_zoo.py data/zoos/digits-digits-digits-allx1.h5 --format safetensors --out exported
"""

import argparse
import sys
from pathlib import Path

from nfbench.zoos.export import FORMATS, export_zoo
from nfbench.zoos.store import read_zoo

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path, help="the HDF5 file")
    parser.add_argument("--format", choices=FORMATS, default="safetensors")
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    args = parser.parse_args()
    try:
        print(export_zoo(read_zoo(args.zoo), args.out, args.format))
    except ValueError as error:
        sys.exit(f"error: {error}")
