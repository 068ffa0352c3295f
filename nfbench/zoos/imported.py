"""`InrFileZoo`: implicit neural representations that lie in a file of the store, imported or built before."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.zoos.augmentation import Augmentation
from nfbench.zoos.build import ZooPlan
from nfbench.zoos.images import SOURCES
from nfbench.zoos.inr import InrZoo
from nfbench.zoos.recipe import DEFINITIONS, SirenRecipe
from nfbench.zoos.selection import choose_split, select, split_items
from nfbench.zoos.splits import Split
from nfbench.zoos.store import ZooData, fingerprint, read_zoo

log = logging.getLogger(__name__)
HOW = (
    "Archives and folders of networks are imported with python scripts/import_zoo.py LAYOUT PATH --out "
    "data/zoos/NAME.h5 (data/README.md)."
)
W0 = ("w0_first", "w0_hidden")
EXAMPLES = {"w0_first": 30, "w0_hidden": 30, "grid": "ij", "output_offset": 0, "pixel_min": 0, "pixel_max": 1}


@dataclass(frozen=True, kw_only=True)
class FilePlan(ZooPlan):
    """Which networks of which file. ``said`` is the file's manifest."""

    spec: NetworkSpec
    split_in_file: Split
    said: Mapping[str, Any]

    @property
    def sizes(self) -> tuple[int, ...]:
        return self.spec.sizes

    def make_split(self) -> Split:
        return self.split_in_file

    def manifest(self) -> dict[str, Any]:
        return dict(self.said)


class InrFileZoo(InrZoo):
    """Sine networks out of one file, with the classes of their items; all of them one tensor on the device.

    Spec, recipe and source are what the file says. Items go to training, validation and test by their index alone, or
    as the file's own column ``split`` says; items of the split that the file lacks (broken ones) are counted
    in the log. `SirenZoo` says how a batch is made.

    Args:
        file: the HDF5 file.
        fingerprint: of the file that is meant; another one is refused. The config fills it in, so that a run is named
            after the content. None: any.
        split: ``file``: the file's column; ``tens``: of each ten items of a class, by index, the third is for
            validation, the fifth for testing; digits, official, nfn, inr2array or dws by image (see splits.py), for
            sources that have them. None: the file's column, else what the file says it was made for, else ``tens``.
        num_images: a nested subset of the items with the split's proportions, the same for every seed; None: all.
        num_views: networks of each training item, from ``first_view`` on; items with fewer are left out. None: as many
            as every training item of the file has.
        first_view: of training items: 0 is the base network, 1 the first copy. NFN's own loader uses a copy in place
            of the base network: ``first_view=1``.
        eval_views: ``one``: the first network of each validation and test item; ``all``.
        w0_first, w0_hidden, grid, output_offset, pixel_min, pixel_max: what the file doesn't say of its networks:
            frequencies of the sines (needed to canonicalise and for sine augmentation), order of the coordinates
            (``ij``: the first goes down the rows; ``xy``: along the columns; needed for mirrors), what is added to the
            output, and the range of pixels. Pictures and edits need all six. A given value wins over the file's.

    All others are explained in `SirenZoo`. ``num_classes`` is 0 where a network has no class.

    Raises:
        ValueError: no such file, one that is no zoo of sine networks or another than the fingerprint says; a split
            that the file doesn't have; a value that is not allowed, or that the file doesn't say but an option needs.
    """

    def __init__(
        self,
        *,
        file: str | None,
        fingerprint: str | None = None,
        split: str | None = None,
        num_images: int | None = None,
        num_views: int | None = None,
        first_view: int = 0,
        eval_views: str = "one",
        w0_first: float | None = None,
        w0_hidden: float | None = None,
        grid: str | None = None,
        output_offset: float | None = None,
        pixel_min: float | None = None,
        pixel_max: float | None = None,
        canonicalize: bool = False,
        augment_rotation: float = 0.0,
        augment_scale: float = 0.0,
        augment_shift: float = 0.0,
        augment_flip: str = "none",
        augment_permute: bool = False,
        augment_sine: bool = False,
        augment_noise: float = 0.0,
        augment_dropout: float = 0.0,
        augment_mixup: float = 0.0,
        standardize: str = "none",
        batch_size: int = 64,
        eval_batch_size: int = 512,
        views_per_epoch: int = 1,
        seed: int = 0,
        data_dir: str = "data",
    ) -> None:
        data, found = read_file(file, fingerprint)
        path, manifest = Path(str(file)), data.manifest
        spec = check_sine_spec(manifest, path)
        given = {
            "w0_first": w0_first, "w0_hidden": w0_hidden, "grid": grid, "output_offset": output_offset,
            "pixel_min": pixel_min, "pixel_max": pixel_max,
        }  # fmt: skip
        recipe, known = find_recipe(manifest, spec, {key: value for key, value in given.items() if value is not None})
        augment = Augmentation(
            rotation=augment_rotation, scale=augment_scale, shift=augment_shift, flip=augment_flip,
            permute=augment_permute, sine=augment_sine, noise=augment_noise, dropout=augment_dropout,
            mixup=augment_mixup,
        )  # fmt: skip
        check_options(path, spec, known, canonicalize, augment)
        name = choose_split(data, split)
        chosen = select(data, name, split_items(data, name, num_images), num_views, first_view, eval_views)
        log.info("%s: %s", path.name, chosen.summary)
        source = str(manifest.get("source"))
        labels = data.label[chosen.rows]
        num_classes = max(int(labels.max()) + 1, SOURCES[source].num_classes if source in SOURCES else 0)
        plan = FilePlan(
            source, name, recipe, num_images, chosen.num_views, eval_views,
            spec=spec, split_in_file=chosen.split, said=manifest,
        )  # fmt: skip
        shape, no_picture = find_image_shape(manifest, spec, known)
        super().__init__(
            plan=plan, label=name_definition(manifest, recipe), name=path.stem, subset=name,
            num_classes=0 if (labels < 0).any() else num_classes, image_shape=shape, augment=augment,
            canonicalize=canonicalize, standardize=standardize, batch_size=batch_size,
            eval_batch_size=eval_batch_size, views_per_epoch=views_per_epoch, seed=seed, file_name=None,
            data_dir=data_dir, zoo_dir=str(path.parent), threads=None, fit_device="cpu",
        )  # fmt: skip
        self.path, self.fingerprint, self._data = path, found, take_rows(data, chosen.rows)
        self.rows, self.num_missing, self.first_view = chosen.rows, chosen.missing, first_view
        self.known, self.no_picture = known, no_picture

    def _open(self) -> ZooData:
        return self._data or take_rows(read_file(str(self.path), self.fingerprint)[0], self.rows)

    @property
    def protocol(self) -> dict[str, str | int | float | bool]:
        """What a result must say about its data."""
        imported = self.plan.manifest().get("import", {}).get("sha256")
        return {
            **super().protocol,
            "recipe_hash": self.recipe.hash if self.known >= set(self.recipe.to_plain()) else "unknown",
            "file": self.path.name,
            "fingerprint": self.fingerprint,
            **({"sha256": imported} if imported else {}),
            "first_view": self.first_view,
            "num_missing": self.num_missing,
        }

    @property
    def edits(self) -> tuple[str, ...]:
        """As of any zoo of images; refused too where the items have no positions among these."""
        if self.plan.manifest().get("indexed") is False:
            raise ValueError(
                f"task=inr_edit needs to know which image each network of {self.path.name} shows: import the folder "
                "again with a column index in its table of labels, the position among the official training images "
                "followed by the test images"
            )
        return super().edits

    def render(self, features: WeightSpaceFeatures) -> Tensor:
        """The images (B, H, W, channels) in [0, 1]. Raises ValueError where `no_picture` says why there are none."""
        if self.no_picture:
            raise ValueError(f"no pictures: {self.no_picture}")
        return super().render(features)


def read_file(file: str | None, expected: str | None) -> tuple[ZooData, str]:
    """The zoo of a file and its fingerprint.

    Raises:
        ValueError: no file, not a zoo, or another one than ``expected``.
    """
    if not file:
        raise ValueError(f"zoo=inr_file reads networks from a file: give it with zoo.file=data/zoos/NAME.h5. {HOW}")
    path = Path(file)
    if not path.is_file():
        unfinished = path.with_name(path.name + ".partial").is_dir()
        there = sorted(found.name for found in path.parent.glob("*.h5"))
        raise ValueError(
            f"there is no zoo file {path}"
            + (": its import or build was stopped; run that command again, it goes on." if unfinished else ". ")
            + ("" if unfinished else f"In that folder: {', '.join(there)}." if there else HOW)
        )
    data = read_zoo(path, advice=f"It was not changed. Give another zoo.file. {HOW}")
    found = fingerprint(data.attributes)
    if expected not in (None, found):
        raise ValueError(
            f"zoo.file={path} has the fingerprint {found}, not zoo.fingerprint={expected}: it holds other networks. "
            "Give the file that is meant, or leave zoo.fingerprint out."
        )
    return data, found


def check_sine_spec(manifest: Mapping[str, Any], path: Path) -> NetworkSpec:
    """The spec of a zoo of INRs. Raises ValueError for other networks."""
    spec = NetworkSpec.parse(manifest["spec"])
    if spec.activation != "sine" or any(layer.is_conv for layer in spec.layers) or spec.num_layers < 2:
        raise ValueError(
            f"{path} holds networks {spec}, and zoo=inr_file reads INRs: dense sine networks with hidden layers, "
            "such as 2-32-32-1:sine. If these are SIRENs in a folder, import them again with --activation sine; "
            "classifiers go with task=cnn_gen zoo=classifier_file."
        )
    return spec


def find_recipe(
    manifest: Mapping[str, Any], spec: NetworkSpec, given: Mapping[str, Any]
) -> tuple[SirenRecipe, set[str]]:
    """The file's recipe with the given fields in place, and the fields that are known; others have default values.

    Raises:
        ValueError: a value that is not allowed, a recipe that cannot be read.
    """
    plain = manifest.get("recipe") or {}
    known = {*manifest.get("recipe_known", plain), *given}
    try:
        return SirenRecipe(**{"widths": spec.sizes[1:-1], **plain, **given}), known
    except TypeError as error:
        raise ValueError(
            f"the recipe in the file's manifest cannot be read ({error}): import the zoo again."
        ) from error


def check_options(path: Path, spec: NetworkSpec, known: set[str], canonicalize: bool, augment: Augmentation) -> None:
    """Raises ValueError for an option that needs what is not known of the networks, or that these cannot have."""
    for option, on, needs in (
        ("canonicalize=true", canonicalize, W0),
        ("augment_sine=true", augment.sine, W0),
        (f"augment_flip={augment.flip}", augment.flip in ("horizontal", "vertical"), ("grid",)),
    ):
        if on and (lacking := [key for key in needs if key not in known]):
            raise ValueError(
                f"zoo.{option} needs {' and '.join(lacking)} of the networks, which {path.name} doesn't say. Give what "
                f"they were trained with, such as {_example(lacking)}, or turn the option off."
            )
    coordinates, flips = spec.sizes[0], augment.flip != "none"
    moves = augment.rotation or augment.scale or augment.shift
    if (flips and coordinates != 2) or (moves and coordinates not in (2, 3)):
        raise ValueError(
            f"{path.name} holds networks of {coordinates} coordinates: zoo.augment_flip is for 2; "
            "zoo.augment_rotation, zoo.augment_scale and zoo.augment_shift for 2 or 3. Set them to none or 0."
        )


def find_image_shape(
    manifest: Mapping[str, Any], spec: NetworkSpec, known: set[str]
) -> tuple[tuple[int, int, int], str | None]:
    """(H, W, channels) of what the networks show, or zeros and why that is not known."""
    source, outputs = manifest.get("source"), spec.sizes[-1]
    lacking = [key for key in EXAMPLES if key not in known]
    why = None
    if spec.sizes[0] != 2 or outputs not in (1, 3):
        why = f"{spec} is not a network of images"
    elif source not in SOURCES:
        why = f"the size of images of {source} is not known"
    elif lacking:
        why = f"the file doesn't say {', '.join(lacking)}; {_example(lacking)} gives it"
    elif len(manifest.get("pixel_mean", ())) > 1:
        why = "the networks give pixels that were standardised by channel"
    return (0, 0, 0) if why else (*SOURCES[str(source)].shape[:2], outputs), why


def name_definition(manifest: Mapping[str, Any], recipe: SirenRecipe) -> str:
    """``published (nfn)``, or ``imported (folder)`` where no publication says what these are; of a zoo that was built
    here, the recipe's name or ``custom``."""
    if layout := manifest.get("layout"):
        return f"{'published' if manifest.get('definition') == layout else 'imported'} ({layout})"
    names = (name for name, fields in DEFINITIONS.items() if SirenRecipe(**fields, seed=recipe.seed) == recipe)
    return next(names, "custom")


def take_rows(data: ZooData, rows: NDArray[np.int64]) -> ZooData:
    """The zoo with these rows alone; the same memory where these are all."""
    if len(rows) == len(data.label):
        return data
    extra = {name: values[rows] for name, values in data.extra.items()}
    params, label, index, view = data.params[rows], data.label[rows], data.index[rows], data.view[rows]
    return replace(data, params=params, label=label, index=index, view=view, extra=extra)


def _example(keys: Iterable[str]) -> str:
    return " ".join(f"zoo.{key}={EXAMPLES[key]}" for key in keys)
