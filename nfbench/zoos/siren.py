"""`SirenZoo`: implicit neural representations of images, built on the spot, as a Lightning DataModule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nfbench.zoos.augmentation import Augmentation
from nfbench.zoos.build import ZooPlan
from nfbench.zoos.images import check_images, load_images, source_info
from nfbench.zoos.inr import InrZoo
from nfbench.zoos.recipe import make_recipe
from nfbench.zoos.splits import default_split, make_split


class SirenZoo(InrZoo):
    """SIRENs fitted to the images of one source, with labels; all of them one tensor on the device.

    The zoo's file is built by `prepare_data` if it isn't there. Images go to training, validation and test by their
    index alone, with all their views. A batch is made in this order: weights from the file; in training, exact random
    motions of the image; canonical form (if ``canonicalize``); in training, noise, dropout and mixup (approximate),
    then sine symmetry and neuron permutation (exact); standardisation. `Augmentation` says why.

    Args:
        source: digits, mnist, fashion or cifar10.
        definition: the recipe by name: digits, nfn, dws, dws_mnist, dws_fashion and others (see recipe.py), or custom.
        widths, w0_first, w0_hidden, init, init_scale, bias_init, output_offset, pixel_min, pixel_max, grid, optimizer,
            lr, num_steps, stop_psnr: fields of `SirenRecipe` that replace the definition's where not None
            (``stop_psnr=0``: never).
        zoo_seed: of the random inits.
        split: digits, official, nfn, inr2array or dws (see splits.py); None: by source and definition.
        num_images: a nested subset of the images with the split's proportions, the same for every seed; None: all.
        num_views: networks, from independent inits, of each training image.
        eval_views: ``one``: view 0 of validation and test images, as in the papers; ``all``: all views.
        canonicalize: bring every network to the canonical form of sine networks.
        augment_rotation, augment_scale, augment_shift: largest rotation (radians), relative change of size, and
            translation (the image is 2 wide) of training images; exact.
        augment_flip: ``horizontal``, ``vertical`` or ``both``: mirrors half of the training images; exact; ``none``.
        augment_permute: random order of hidden neurons; exact.
        augment_sine: random signs and half-turns of phase of hidden neurons; exact, not with ``canonicalize``.
        augment_noise: standard deviation of noise relative to that of each weight and bias tensor; approximate.
        augment_dropout: probability that a weight or bias is set to zero; approximate.
        augment_mixup: alpha of the Beta distribution in whose shares pairs of networks are averaged; targets are class
            probabilities (B, num_classes) then; approximate; 0: off.
        standardize: ``layer``: subtract mean and divide by standard deviation of each weight and bias tensor, two
            numbers a tensor, measured on (canonical) training networks without augmentation; ``scale``: only divide, by
            the root of the mean square, which keeps zero and signs; ``none``.
        batch_size, eval_batch_size: networks a batch in training; in validation and testing.
        views_per_epoch: how many views of each training image an epoch visits.
        seed: of the order of batches, the choice of views and the augmentations.
        file_name: the zoo's file in ``zoo_dir`` is ``<file_name>.h5``; None: a name made of the values above.
        data_dir: where image files are looked for and downloaded to; the default ``data`` comes after
            ``$NFBENCH_DATA_DIR``, any other before it.
        zoo_dir: folder of the zoo files.
        threads: that fit networks; None: one a core.
        fit_device: ``cpu``, or a GPU's name to fit networks there.

    Raises:
        ValueError: a value that is not allowed, with those that are.
    """

    def __init__(
        self,
        *,
        source: str,
        definition: str,
        widths: Sequence[int] | None = None,
        w0_first: float | None = None,
        w0_hidden: float | None = None,
        init: str | None = None,
        init_scale: float | None = None,
        bias_init: str | None = None,
        output_offset: float | None = None,
        pixel_min: float | None = None,
        pixel_max: float | None = None,
        grid: str | None = None,
        optimizer: str | None = None,
        lr: float | None = None,
        num_steps: int | None = None,
        stop_psnr: float | None = None,
        zoo_seed: int = 0,
        split: str | None = None,
        num_images: int | None = None,
        num_views: int = 1,
        eval_views: str = "one",
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
        file_name: str | None = None,
        data_dir: str = "data",
        zoo_dir: str = "data/zoos",
        threads: int | None = None,
        fit_device: str = "cpu",
    ) -> None:
        info = source_info(source)
        recipe, label = make_recipe(
            definition, widths=tuple(widths) if widths is not None else None, w0_first=w0_first, w0_hidden=w0_hidden,
            init=init, init_scale=init_scale, bias_init=bias_init, output_offset=output_offset, pixel_min=pixel_min,
            pixel_max=pixel_max, grid=grid, optimizer=optimizer, lr=lr, num_steps=num_steps, stop_psnr=stop_psnr,
            seed=zoo_seed,
        )  # fmt: skip
        augment = Augmentation(
            rotation=augment_rotation, scale=augment_scale, shift=augment_shift, flip=augment_flip,
            permute=augment_permute, sine=augment_sine, noise=augment_noise, dropout=augment_dropout,
            mixup=augment_mixup,
        )  # fmt: skip
        split = split or default_split(source, definition)
        whole = num_images is None or num_images == len(make_split(source, split).all_images)
        plan = ZooPlan(source, split, recipe, None if whole else num_images, num_views, eval_views)
        super().__init__(
            plan=plan, label=label, name=source, subset=f"{split}-{plan.num_images or 'all'}",
            num_classes=info.num_classes, image_shape=info.shape, augment=augment, canonicalize=canonicalize,
            standardize=standardize, batch_size=batch_size, eval_batch_size=eval_batch_size,
            views_per_epoch=views_per_epoch, seed=seed, file_name=file_name, data_dir=data_dir, zoo_dir=zoo_dir,
            threads=threads, fit_device=fit_device,
        )  # fmt: skip
        self._images: Tensor | None = None

    def true_images(self, index: Tensor) -> Tensor:
        """The images (B, P, channels) in [0, 1] that networks were fitted to, by image index (B,); after `setup`.

        Raises:
            ValueError: the images that are here are others.
        """
        if self._images is None:
            images = load_images(self.plan.source, self.data_dir)
            check_images(self.plan.source, images, self._images_sha256)
            self._images = torch.from_numpy(images.pixels).flatten(1, 2)
        return self._images[index]
