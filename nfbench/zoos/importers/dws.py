"""The SIREN zoos of DWSNets: ``mnist-inrs.zip`` and ``fmnist_inrs.zip``.

Navon et al., Equivariant Architectures for Learning in Deep Weight Spaces, arXiv 2301.12780; their repository
(AvivNavon/DWSNets) names the place. Both hold state dicts ``seq.{0,1,2}.{weight,bias}`` of 2-32-32-1 networks::

    mnist-inrs/mnist_png_{training,testing}_{label}_{index}/checkpoints/model_final.pth
    fmnist_inrs/{train,test}/model_{index}.pth      with the label inside, as `label` beside the weights
    fmnist_inrs/splits.json                         the authors' train, val and test: absolute paths of their machine

``index`` counts within the training or the test images; test images follow the training images here. That the Fashion
numbers are torchvision's positions is how later code that edits images uses them (mkofinas/neural-graphs); the archive
itself doesn't say. Where ``splits.json`` is there it becomes the text column ``split``. The authors' MNIST split is
random, unseeded and not published. The networks have w0 = 30, no special first layer and 0.5 added to the output;
pixels in [0, 1] on a grid whose first coordinate goes along the columns.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.images import source_info
from nfbench.zoos.importers.common import Broken, read_one
from nfbench.zoos.importers.nfn import guess_source
from nfbench.zoos.importers.run import FileLayout, Row
from nfbench.zoos.importers.tensors import load_state, to_row
from nfbench.zoos.recipe import make_recipe

MNIST = re.compile(r"(?:^|/)mnist_png_(train|test)(?:ing)?_(\d)_(\d{1,9})/checkpoints/model_final\.pth$")
FASHION = re.compile(r"(?:^|/)(train|test)/model_(\d{1,9})\.pth$")
FIRST_TEST = 60_000


class DwsLayout(FileLayout):
    """A DWSNets zoo.

    Args:
        path: the zip (or a tar), or its folder unpacked.
        source: mnist or fashion; None: by the name of the archive.
        spec: of every network; None: 2-32-32-1:sine, as published.

    Raises:
        ValueError: another source or a name that doesn't tell it, a damaged ``splits.json``.
    """

    def __init__(self, path: Path, source: str | None = None, spec: str | None = None) -> None:
        self.path, self.source = path, source or guess_source(path)
        if self.source not in ("mnist", "fashion"):
            raise ValueError(f"source {self.source!r}: DWSNets published zoos of mnist and fashion only.")
        self.spec = NetworkSpec.parse(spec or f"2-32-32-{source_info(self.source).shape[2]}:sine")
        self.pattern = MNIST if self.source == "mnist" else FASHION
        self.parts = _read_split(path) if self.source == "fashion" else {}
        recipe, _ = make_recipe("dws", widths=self.spec.sizes[1:-1])
        self.manifest = {
            "layout": "dws",
            "source": self.source,
            "definition": "dws",
            "split": "dws",
            "authors_split": bool(self.parts),
            "recipe": recipe.to_plain(),
            "recipe_hash": recipe.hash,
        }

    def matches(self, name: str) -> bool:
        return self.pattern.search(name) is not None and not name.startswith("__MACOSX/")

    def row(self, name: str, data: bytes) -> Row:
        match = self.pattern.search(name)
        assert match is not None, "asked for names that match"
        state = load_state(data, name)
        label: object = match[2] if self.source == "mnist" else state.pop("label", None)
        try:
            number = int(label)  # type: ignore[call-overload]  # also a tensor of one number
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            plain = isinstance(label, (str, int, float)) or label is None  # what holds other things can be endless
            raise Broken(f"has no label: {label if plain else type(label).__name__}") from error
        index = int(match[match.re.groups]) + (FIRST_TEST if match[1] == "test" else 0)
        split = {"split": self.parts.get("/".join(PurePosixPath(name).parts[-2:]), "none")} if self.parts else {}
        return Row(to_row(state, self.spec), index=index, view=0, label=number, extra=split)

    def expected(self) -> str:
        if self.source == "mnist":
            return "files such as mnist_png_training_2_23089/checkpoints/model_final.pth"
        return "files such as train/model_23089.pth"


def _read_split(path: Path) -> dict[str, str]:
    """The part of each network, by the last two parts of its path: all that other machines have in common."""
    try:
        found = read_one(path, "splits.json")
        split = json.loads(found[1]) if found is not None else {"train": [], "val": [], "test": []}
        return {"/".join(PurePosixPath(p).parts[-2:]): part for part in ("train", "val", "test") for p in split[part]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: splits.json is not a split of train, val and test ({error!r}).") from error
