"""The loss around the weights of a zoo's network or of a run's own model, and sharpness along a training run.

python scripts/landscape.py data/zoos/cnn_fashion.h5 --row 12 --grid 51      # a network of a zoo
python scripts/landscape.py outputs/inr_cls/nft-siren_digits-seed0-1a2b3c4d  # a run's best checkpoint
python scripts/landscape.py data/zoos/cnn_fashion.h5 --row 12 --along        # all checkpoints of that network's run

Directions are random and normalised filter by filter (Li et al., arXiv 1712.09913): at distance 1 each filter has moved
by its own length. Classifiers are evaluated on training images, INRs on their own image, runs on their validation set.
Writes <zoo>.row<n>.landscape.png and .h5 (or .along.png and .h5) beside a zoo, landscape.* or along.* in a run folder.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from nfbench import measures
from nfbench.allocator import keep_freed_memory
from nfbench.config import errors, register
from nfbench.config.build import build_model, build_task, build_zoo
from nfbench.report import landscape
from nfbench.resume import read_checkpoint
from nfbench.weightspace import NetworkSpec, WeightSpaceFeatures
from nfbench.zoos.fit import pixel_grid, render_flat
from nfbench.zoos.images import SOURCES, load_images
from nfbench.zoos.measures import training_sample
from nfbench.zoos.recipe import SirenRecipe
from nfbench.zoos.store import ZooData, read_zoo

TASKS = ("inr_cls", "cnn_gen")

JACOBIANS = 64  # images, or networks, whose Jacobians are taken along a run
Norms = measures.JacobianNorms


class ZooNetwork:
    """A network of a zoo and the loss around it.

    Args:
        spec: with the network's own activation.
        params_T: its weights.
        losses: (G, T) -> (G,).
        jacobians: norms at weights (1, T); None for INRs.
        step: of training; rate: the learning rate, NaN where unknown.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        params_T: Tensor,
        losses: measures.Losses,
        jacobians: Callable[[Tensor], Norms] | None,
        step: int,
        rate: float,
    ) -> None:
        self.spec, self.params_T, self.losses, self._jacobians = spec, params_T, losses, jacobians
        self.step, self.rate = step, rate

    def direction(self, seed: int, norm: str, biases: bool) -> Tensor:
        """(T,)."""
        return measures.network_direction(self.spec, self.params_T[None], seed, norm, biases)[0]

    def product(self) -> Callable[[Tensor], Tensor]:
        """(1, T) -> (1, T), the Hessian's."""
        return measures.hessian_product(self.losses, self.params_T[None])

    def jacobians(self) -> Norms | None:
        """Of the logits by the pixels."""
        return self._jacobians(self.params_T[None]) if self._jacobians else None


class RunModel:
    """A checkpoint of a run, and its task's loss on validation networks as a function of the model's weights.

    The loss is what the task trains on, but in evaluation mode, without dropout and augmentation, and of the averaged
    weights where the run averages them.

    Args:
        task: with its model, whose weights are overwritten.
        batches: of the validation set.
        checkpoint: its state is loaded.

    Raises:
        ValueError: a model without weights, a checkpoint that does not fit it.
    """

    def __init__(self, task: Any, batches: Sequence[Any], checkpoint: dict[str, Any]) -> None:
        try:
            task.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint does not fit {type(task.model).__name__} as it is built now, so it was written by "
                f"another version of this project: train the run anew. {str(error)[:200]}..."
            ) from error
        averaged = getattr(task, "averaged", None)
        if averaged is not None:
            task.model = averaged
        self.task, self.batches, self.model = task.eval(), batches, task.model
        task.log = task.log_dict = lambda *_, **__: None  # there is no trainer that it could log to
        if not any(p.is_floating_point() for p in self.model.parameters()):
            raise ValueError(f"{type(self.model).__name__} has no weights, so there is no landscape around them")
        self.tensors = [p.requires_grad_() for p in self.model.parameters()]
        self.params_T = torch.cat([p.detach().flatten() for p in self.tensors])
        self.step = int(checkpoint["global_step"])
        states = checkpoint.get("optimizer_states") or [{"param_groups": [{}]}]
        self.rate = float(states[0]["param_groups"][0].get("lr") or "nan")  # 0 at the end of a schedule: no line

    def direction(self, seed: int, norm: str, biases: bool) -> Tensor:
        """(T,)."""
        self._set_weights(self.params_T)
        weights = [p.detach() for p in self.tensors]
        return torch.cat([d.flatten() for d in measures.random_direction(weights, seed, norm, biases)])

    @torch.no_grad()
    def losses(self, points: Tensor) -> Tensor:
        """(G, T) -> (G,)."""
        found = []
        for params_T in points:
            self._set_weights(params_T)
            parts = [self._loss(batch) for batch in self.batches]
            found.append(sum(loss * size for loss, size in parts) / sum(size for _, size in parts))
        return torch.stack(found)

    def product(self) -> Callable[[Tensor], Tensor]:
        """(1, T) -> (1, T), the Hessian's, by differences: the layers' own backward passes have no derivative."""
        return measures.difference_product(self._gradient, self.params_T[None])

    def jacobians(self) -> Norms:
        """Of the model's outputs by the weights that it reads."""
        self._set_weights(self.params_T)
        features = self.batches[0].features[slice(JACOBIANS)]
        flat = features.flatten().detach().requires_grad_()
        return measures.jacobian_norms(self.model(WeightSpaceFeatures.from_flat(features.spec, flat)).flatten(1), flat)

    @torch.enable_grad()
    def _gradient(self, points: Tensor) -> Tensor:
        self._set_weights(points[0])
        total, count = torch.zeros_like(points), 0
        for batch in self.batches:
            loss, size = self._loss(batch)
            grads = torch.autograd.grad(loss * size, self.tensors, allow_unused=True, materialize_grads=True)
            total, count = total + torch.cat([g.flatten() for g in grads]), count + size
        return total / count

    @torch.no_grad()
    def _set_weights(self, params_T: Tensor) -> None:
        for tensor, part in zip(self.tensors, params_T.split([t.numel() for t in self.tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def _loss(self, batch: Any) -> tuple[Tensor, int]:
        return self.task.training_step(batch, 0), len(batch.index)


def load_zoo_networks(args: argparse.Namespace) -> tuple[list[ZooNetwork], dict[str, Any]]:
    """One network of a zoo, or with --along all checkpoints of its run by step; and what is drawn.

    Raises:
        ValueError: no such row; --along without checkpoints.
    """
    data = read_zoo(args.what)
    if not 0 <= args.row < len(data.label):
        raise ValueError(f"--row {args.row}: {args.what} has rows 0 to {len(data.label) - 1}")
    rows, step, run = np.array([args.row]), data.extra.get("step"), data.index[args.row]
    if args.along:
        rows = np.flatnonzero(data.index == run)
        if step is None or len(rows) < 2:
            raise ValueError(
                f"--along needs several checkpoints of a run: row {args.row} of {args.what} is of run {run}, of which "
                f"the zoo has {len(rows)}{'' if step is not None else ', and no column step'}. Import with --step all, "
                "or take a zoo that keeps checkpoints."
            )
        rows = rows[np.argsort(step[rows])]
    spec = NetworkSpec.parse(data.manifest["spec"])
    spec = replace(spec, activation=str(data.extra.get("config.activation", {args.row: spec.activation})[args.row]))
    load = load_inr if spec.activation == "sine" else load_classifier
    losses, jacobians, about = load(spec, data, args)
    rate, optimizer = data.extra.get("config.learning_rate"), data.extra.get("config.optimizer")
    points = [
        ZooNetwork(
            spec,
            torch.from_numpy(data.params[row]),
            losses,
            jacobians,
            0 if step is None else int(step[row]),
            float("nan") if rate is None else float(rate[row]),
        )
        for row in rows
    ]
    how = str(spec) if optimizer is None else f"{spec}, {optimizer[args.row]}"
    title = f"{args.what.stem}, {f'run {run}' if args.along else f'row {args.row}'} ({how})"
    return points, about | {"title": title, "row": args.row, "step_name": "epoch of training"}


def load_classifier(
    spec: NetworkSpec, data: ZooData, args: argparse.Namespace
) -> tuple[measures.Losses, Callable[[Tensor], Norms], dict[str, Any]]:
    """Cross-entropy on training images, norms of the Jacobians of logits by pixels, and what was read."""
    source = args.source or str(data.manifest.get("source"))
    sample, classes, sha256 = training_sample(source, args.data_dir, args.images)
    pixels, labels = torch.from_numpy(sample), torch.from_numpy(classes)

    def jacobians(params_BT: Tensor) -> Norms:
        return measures.classifier_jacobian_norms(spec, params_BT, pixels[:JACOBIANS])

    about = {"source": source, "images": len(labels), "images_sha256": sha256, "loss_name": "cross-entropy, nats"}
    return measures.cross_entropies(spec, pixels, labels), jacobians, about


def load_inr(
    spec: NetworkSpec, data: ZooData, args: argparse.Namespace
) -> tuple[measures.Losses, None, dict[str, Any]]:
    """Mean squared error of an INR on its own image, pixels in [0, 1], and what was read.

    Raises:
        ValueError: a zoo that is not of images that are known here.
    """
    source, recipe = data.manifest.get("source"), data.manifest.get("recipe")
    if source not in SOURCES or recipe is None:
        known = ", ".join(SOURCES)
        raise ValueError(f"{args.what} holds INRs of {source!r}, not of images that are known here: {known}")
    image, how = load_images(source, args.data_dir).pixels[data.index[args.row]], SirenRecipe(**recipe)
    target = torch.from_numpy(image).flatten(0, 1)  # (P, channels)
    coords = torch.from_numpy(pixel_grid(image.shape[0], image.shape[1], how.grid))

    def losses(params_BT: Tensor) -> Tensor:
        return (render_flat(params_BT, spec.sizes, coords, how) - target).square().mean((1, 2))

    return losses, None, {"source": source, "image": int(data.index[args.row]), "loss_name": "mean squared error"}


def load_run(args: argparse.Namespace) -> tuple[list[RunModel], dict[str, Any]]:
    """The best checkpoint of a run, or with --along all that are there by step; and what is drawn.

    Raises:
        ValueError: no checkpoints, or with --along not several; a task whose loss needs more than a batch.
    """
    folder = args.what / "checkpoints"
    files = sorted(folder.glob("*.ckpt"))
    if not files:
        raise ValueError(f"{args.what} has no checkpoints: give the folder of a run that has trained for an epoch")
    register()  # what the config's interpolations mean
    cfg = OmegaConf.load(args.what / ".hydra" / "config.yaml")
    if cfg.task.name not in TASKS:
        raise ValueError(
            f"{args.what} is a run of task={cfg.task.name}: landscapes are drawn of {' and '.join(TASKS)}, whose loss "
            "is that of a batch alone"
        )
    if not args.along:
        files = [file for file in files if file.stem == "best"] or files[-1:]
    steps = {int(found["global_step"]): found for found in map(read_checkpoint, files)}
    if args.along and len(steps) < 2:
        raise ValueError(
            f"--along needs checkpoints of several epochs, and {folder} has {', '.join(file.name for file in files)}, "
            f"all of step {next(iter(steps))}. A run keeps its best and its last: train longer, or copy last.ckpt to "
            "other names beside it while it trains."
        )
    zoo = build_zoo(cfg.zoo)
    zoo.prepare_data()
    zoo.setup()
    dtype = torch.float64 if args.along else torch.float32  # differences of gradients need the digits
    batches = [b._replace(features=b.features.to(dtype)) for b in list(zoo.val_dataloader())[: args.batches]]
    batches = [b._replace(target=b.target.to(dtype)) if b.target.is_floating_point() else b for b in batches]

    def load(checkpoint: dict[str, Any]) -> RunModel:
        task = build_task(cfg.task, zoo)
        task.model = build_model(cfg.model, spec=zoo.spec, out_dim=task.out_dim)
        task.configure_model()
        return RunModel(task.to(dtype), batches, checkpoint)

    networks = sum(len(batch.index) for batch in batches)
    about = {"networks": networks, "loss_name": "loss on validation networks", "step_name": "step of training"}
    title = f"{args.what.resolve().name}, {networks} validation networks"
    return [load(found) for _, found in sorted(steps.items())], about | {"title": title}


def draw_around(point: ZooNetwork | RunModel, about: dict[str, Any], args: argparse.Namespace, path: Path) -> None:
    """Curves along each direction and the plane of the first two."""
    at = torch.linspace(-args.radius, args.radius, args.grid)
    directions = [point.direction(seed, args.norm, args.biases) for seed in about["seeds"]]
    with tqdm(total=args.grid * (args.grid + args.directions), unit="point", disable=None) as bar:
        lines = torch.stack([measures.line(point.losses, point.params_T, d, at, bar.update) for d in directions])
        surface = measures.plane(point.losses, point.params_T, *directions[:2], at, bar.update)
    loss = point.losses(point.params_T[None])[0]
    arrays = write(path, {"at": at, "lines": lines, "surface": surface, "loss": loss}, about)
    title = f"{about['title']}: loss {float(loss):.4f}"
    curves = (arrays["at"], arrays["lines"], arrays["surface"])
    landscape.draw_landscape(path.with_suffix(".png"), title, *curves, about["loss_name"])
    print(f"loss {float(loss):.4f}; wrote {path} and {path.with_suffix('.png')}")


def draw_along(
    points: Sequence[ZooNetwork | RunModel], about: dict[str, Any], args: argparse.Namespace, path: Path
) -> None:
    """Largest eigenvalue, Jacobian norms and loss of each checkpoint."""
    rows = []
    for point in tqdm(points, unit="checkpoint", disable=None):
        params_1T = point.params_T[None]
        top, norms = measures.top_eigenvalue(point.product(), params_1T, seed=args.seed), point.jacobians()
        rows.append(
            {
                "step": float(point.step),
                "learning_rate": point.rate,
                "loss": float(point.losses(params_1T)[0]),
                "hessian_top": float(top.value),
                "hessian_residual": float(top.residual),
                "jacobian_spectral": float(norms.spectral.mean()) if norms else float("nan"),
                "jacobian_frobenius": float(norms.frobenius.mean()) if norms else float("nan"),
            }
        )
    arrays = write(path, {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}, about)
    landscape.draw_along(path.with_suffix(".png"), about["title"], about["step_name"], arrays)
    print(f"{len(points)} checkpoints; wrote {path} and {path.with_suffix('.png')}")


def write(path: Path, columns: dict[str, Tensor], about: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """Writes numbers and what they are to an HDF5 file; gives them as numpy arrays."""
    arrays = {name: values.numpy() for name, values in columns.items()}
    with h5py.File(path, "w") as file:
        file.attrs["about"] = json.dumps(about)
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return arrays


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", type=Path, help="a zoo's HDF5 file, or a run folder")
    parser.add_argument("--row", type=int, default=0, help="of the zoo, from 0 (0)")
    parser.add_argument("--along", action="store_true", help="largest eigenvalue and Jacobian norm against the step")
    parser.add_argument("--grid", type=int, default=31, help="points along each direction (31)")
    parser.add_argument("--radius", type=float, default=1.0, help="of the picture, in lengths of a filter (1)")
    parser.add_argument("--directions", type=int, default=5, help="of the curves; the first two span the plane (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the first direction; the others follow (0)")
    parser.add_argument("--norm", default="filter", choices=measures.NORMS, help="of the directions (filter)")
    parser.add_argument("--biases", action="store_true", help="directions move biases as well")
    parser.add_argument("--images", type=int, default=512, help="training images of a classifier (512)")
    parser.add_argument("--batches", type=int, help="of a run's validation set, at most (all)")
    parser.add_argument("--source", help="of the images, if the zoo's file doesn't say")
    parser.add_argument("--data-dir", default="data", help="where the images are (data)")
    parser.add_argument("--out", type=Path, help="the HDF5 file to write; the picture goes beside it")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Does what the command line says.

    Raises:
        ValueError: whatever the person who typed it can put right.
    """
    args = parse(arguments)
    least = {"grid": 3, "directions": 2, "images": 1, "batches": 1}
    for name, number in least.items():
        if (given := getattr(args, name)) is not None and given < number:
            raise ValueError(f"--{name} {given} must be at least {number}")
    if args.radius <= 0:
        raise ValueError(f"--radius {args.radius} must be positive")
    keep_freed_memory()
    kind = "along" if args.along else "landscape"
    points: Sequence[ZooNetwork | RunModel]
    if (args.what / ".hydra" / "config.yaml").is_file():
        (points, about), path = load_run(args), args.what / f"{kind}.h5"
    elif args.what.is_file():
        (points, about), path = load_zoo_networks(args), args.what.with_suffix(f".row{args.row}.{kind}.h5")
    else:
        raise ValueError(f"{args.what} is neither a zoo's HDF5 file nor a run folder (with .hydra/config.yaml)")
    about |= {"what": str(args.what), "seed": args.seed}
    if args.along:
        draw_along(points, about, args, args.out or path)
    else:
        about |= {"seeds": [args.seed + k for k in range(args.directions)], "radius": args.radius}
        draw_around(points[0], about | {"norm": args.norm, "biases": args.biases}, args, args.out or path)


if __name__ == "__main__":
    with errors.one_screen():
        try:
            main(sys.argv[1:])
        except KeyboardInterrupt:
            sys.exit(130)
