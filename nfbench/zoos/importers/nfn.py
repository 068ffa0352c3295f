"""The SIREN zoos of NFN: ``siren_{mnist,fashion,cifar}_wts.tar``.

Zhou et al., Permutation Equivariant Neural Functionals, arXiv 2302.14040; places are named in their repository's README
(AllanYangZhou/nfn). One file a network::

    siren_mnist_wts/randinit_smaller_{label}s/net{index}.pth          view 0
    siren_mnist_wts/randinit_smaller_aug{i}_{label}s/net{index}.pth   view i + 1: further random inits

``index`` is the image's position in torchvision's training set followed by its test set. A file is a state dict of the
class ``Siren`` (``net.0.linear.weight``, ..., ``net.2.bias``); only the order counts. The authors' own loader globs
``{prefix}_*``, which matches the copies too, so an image there gets whichever file comes last; here each file keeps its
own view. The network has w0 = 30, no output offset, pixels in [-1, 1] on a grid whose first coordinate goes down.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from nfbench.weightspace import NetworkSpec
from nfbench.zoos.images import SOURCES, source_info
from nfbench.zoos.importers.common import check_file, read_file
from nfbench.zoos.importers.run import FileLayout, Row
from nfbench.zoos.importers.tensors import load_state, to_row
from nfbench.zoos.recipe import make_recipe

PREFIX = "randinit_smaller"
# Of an exported zoo's manifest; what it lacks is not known of these networks, whatever NFN's are.
CARRIED = (
    "definition",
    "split",
    "num_images",
    "recipe",
    "recipe_hash",
    "recipe_known",
    "pixel_mean",
    "pixel_std",
    "indexed",
)


class NfnLayout(FileLayout):
    """An NFN zoo.

    Args:
        path: the tar, or its folder unpacked, or a folder that `nfbench.zoos.export` wrote: then its ``zoo.json``
            says what the zoo was.
        source: mnist, fashion, cifar10 or digits; None: by the name of the archive.
        spec: of every network; None: 2-32-32-1:sine or 2-32-32-3:sine, as published.
        prefix: of the folders' names.

    Raises:
        ValueError: a source that is unknown or that the name doesn't tell, a spec that cannot be read.
    """

    def __init__(self, path: Path, source: str | None = None, spec: str | None = None, prefix: str = PREFIX) -> None:
        ours, self.parts = _exported(path)
        self.path, self.source = path, source or ours.get("source") or guess_source(path)
        if source or "spec" not in ours:  # an exported zoo may be of other images
            source_info(self.source)
        self.spec = NetworkSpec.parse(spec or ours.get("spec") or f"2-32-32-{source_info(self.source).shape[2]}:sine")
        # Anchored on both sides of the label, so that copies are never taken for first networks.
        self.pattern = re.compile(rf"(?:^|/){re.escape(prefix)}(?:_aug(\d{{1,4}}))?_(\d{{1,4}})s/net(\d{{1,9}})\.pth$")
        recipe, _ = make_recipe("nfn", widths=self.spec.sizes[1:-1])
        published = {
            "definition": "nfn",
            "split": "digits" if self.source == "digits" else "nfn",
            "recipe": recipe.to_plain(),
            "recipe_hash": recipe.hash,
        }
        carried = {"definition": "custom"} | {name: ours[name] for name in CARRIED if name in ours}
        self.manifest = {"layout": "nfn", "source": self.source, **(carried if ours else published), "prefix": prefix}

    def matches(self, name: str) -> bool:
        return self.pattern.search(name) is not None

    def row(self, name: str, data: bytes) -> Row:
        match = self.pattern.search(name)
        assert match is not None, "asked for names that match"
        copy, label, index = match.groups()
        return Row(
            to_row(load_state(data, name), self.spec),
            index=int(index),
            view=0 if copy is None else int(copy) + 1,
            label=int(label),
            extra={"split": self.parts.get("/".join(PurePosixPath(name).parts[-2:]), "none")} if self.parts else {},
        )

    def expected(self) -> str:
        return f"files such as {self.manifest['prefix']}_7s/net123.pth (see --prefix)"


def _exported(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The manifest of a zoo that was exported to this folder and the part of each file; empty for others."""
    file = path / "zoo.json"
    if not os.path.lexists(file):
        return {}, {}
    check_file(path, file)
    try:
        said = json.loads(read_file(file))
        return dict(said["manifest"]), {str(name): str(part) for name, part in said.get("split", {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is not the description of an exported zoo ({error!r}).") from error


# Whole words: what begins with these can be other images, such as those of CIFAR-100, EMNIST or KMNIST.
_WORDS = (
    ("fashion|fashion[-_]?mnist|fmnist", "fashion"), ("mnist", "mnist"),
    (r"cifar(?![^a-z]*\d)|cifar[-_]?10", "cifar10"),
)  # fmt: skip


def guess_source(path: Path) -> str:
    """The images' source by the name of an archive or folder, such as siren_cifar_wts.tar or fmnist_inrs.

    Raises:
        ValueError: the name doesn't tell.
    """
    name = path.name.lower()
    for word, source in _WORDS:
        if re.search(rf"(?<![a-z0-9])(?:{word})(?![a-z0-9])", name):
            return source
    raise ValueError(f"{path.name} doesn't tell which images these are: add --source, one of {', '.join(SOURCES)}.")
