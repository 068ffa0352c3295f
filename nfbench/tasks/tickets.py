"""Winning tickets from the initialisation: masks are drawn for new networks, which are then trained under them.

Special here:
- the model is a conditional VAE: it is trained on the evidence lower bound of masks given initialisations, and predicts
  with a latent from the prior, so that the true mask of a held-out network has no way into its prediction;
- predicted scores are cut so that exactly the wanted share of weights is kept, as in the pruning that made the tickets.
  The largest scores may leave a whole layer empty where the probabilities expect some of it to be kept, so there are
  other ways, and the one whose masks are best on the validation pairs, trained, is taken to the test;
- the test is the training of the masked networks, all at once, which the zoo knows how to do.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from nfbench.tasks.base import Task
from nfbench.weightspace import NetworkSpec, Pruning, WeightSpaceFeatures, ZooBatch, densities
from nfbench.weightspace.masks import WITHIN

log = logging.getLogger(__name__)
LATENTS = ("prior", "zero")
CUTS = ("tensor", "input", "largest", "sampled")
SOURCES = ("dense", "imp", "random", "random_layer", "magnitude", "magnitude_layer", "snip", "grasp")
MAGNITUDES = ("magnitude", "magnitude_layer")  # of the initialisation: what a pointwise model can learn by itself
PICTURED = 2000  # weights of each layer whose scores are kept for the picture
COLUMNS = ("index", "view", "source", "accuracy", "overlap", "density")  # of predictions.csv


class WinningTickets(Task):
    """Evidence lower bound of masks; test accuracy of networks that are trained under predicted masks.

    Overlap is the share of a mask's weights that IMP keeps too; a random mask has 1 - sparsity.

    Args:
        pruning: how masks are made from scores: arguments of `Pruning`; the zoo says them.
        kl_weight: of the divergence from the prior in the loss; 1 is the lower bound itself.
        latent: "prior": predictions take a draw from the prior, fixed for each network; "zero": its mode.
        samples: draws whose scores are averaged.
        cut: how scores become masks: "tensor", "input": each tensor, or the weights of each input neuron, as dense as
            their probabilities expect, see `Pruning.keep_expected`; "largest": the largest scores of all that compete;
            "sampled": the largest after Gumbel noise was added, one draw fixed for each network; "validated": whichever
            of these gives the validation pairs the best accuracy.
        optimizer, lr, weight_decay, schedule, warmup_steps, warmup_share, ema_decay: see `Task`.

    Raises:
        ValueError: an unknown latent, optimiser or schedule, or a number out of its range.
    """

    out_dim = None
    columns = COLUMNS
    metrics = (  # what `metric` and `monitor` may name
        *(f"{stage}/{name}" for stage in ("val", "test") for name in ("loss", "overlap", "kl")),
        *(f"test/{name}" for name in ("acc", "acc_std", "acc_se", "acc_over_magnitude")),
        *(f"val/acc/{cut}" for cut in CUTS),
        *(f"test/{name}/{source}" for name in ("acc", "acc_std") for source in SOURCES),
    )

    def __init__(
        self,
        *,
        pruning: dict[str, Any],
        kl_weight: float = 1.0,
        latent: str = "prior",
        samples: int = 1,
        cut: str = "validated",
        optimizer: str = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        warmup_steps: int = 0,
        warmup_share: float = 0.1,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.check_settings(kl_weight=(0.0, 1e3), samples=(1, 1000))
        for key, value, allowed in (("latent", latent, LATENTS), ("cut", cut, (*CUTS, "validated"))):
            if value not in allowed:
                raise ValueError(f"task.{key}={value!r} is unknown: choose one of {', '.join(allowed)}")
        self.rule = Pruning(**pruning)
        self.cut = CUTS[0] if cut == "validated" else cut
        self._cut_accuracy: dict[str, float] = {}
        self.predictions: list[tuple[int, int, str, float, float, str]] = []
        self._masks: list[tuple[Tensor, Tensor]] = []  # index (B,) and mask (B, T) of each test batch, on the CPU

    def check_model(self) -> None:
        """Refuses a model that draws no masks, before a zoo is built for it.

        Raises:
            ValueError: with what would do.
        """
        if not getattr(self.model, "draws_masks", False):
            raise ValueError(
                f"task=tickets needs a model that draws masks: model=vae/nfn_pt, vae/nfn_np or vae/nft, "
                f"not {type(self.model).__name__}"
            )

    def setup(self, stage: str) -> None:
        """Refuses a step that does not fit in the memory there is.

        Raises:
            ValueError: with what would do.
        """
        model: Any = self.model
        batch_size = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]  # Lightning sets it
        if stage == "fit":
            needed = model.step_bytes(batch_size)
            log.info("a training step of %d networks takes about %.1f GiB", batch_size, needed / 2**30)
            check_memory(needed, free_bytes(self.trainer.strategy.root_device), batch_size)

    def training_step(self, batch: ZooBatch, batch_idx: int) -> Tensor:
        """The negative lower bound of one batch, per prunable weight."""
        model: Any = self.model
        noise = torch.randn(*batch.target.shape, model.latent, device=batch.target.device)
        loss, kl = self.lower_bound(model, batch, noise)
        size = len(batch.target)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=size)
        self.log("train/kl", kl, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def lower_bound(self, model: Any, batch: ZooBatch, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Negative lower bound and divergence, in nats per prunable weight: two numbers."""
        logits, mean, log_variance = model(batch.features, batch.target, noise)
        prunable = self.rule.prunable(batch.features.spec).to(logits.device)
        errors = binary_cross_entropy_with_logits(logits, batch.target, reduction="none")[:, prunable].sum(1)  # (B,)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum((1, 2))  # (B,)
        count = int(prunable.sum())
        return (errors + self.hparams["kl_weight"] * kl).mean() / count, kl.mean() / count

    @torch.no_grad()
    def predict_scores(self, features: WeightSpaceFeatures, index: Tensor, latent: str | None = None) -> Tensor:
        """Scores (B, T) of the weights of networks, from their initialisation alone.

        Args:
            features: initialisations.
            index: (B,) numbers of the pairs, which decide their draws from the prior.
            latent: "prior" or "zero"; None: as `latent` of the task.
        """
        model: Any = self.evaluated
        shape = (features.spec.num_params, model.latent)
        if (latent or self.hparams["latent"]) == "zero":
            return model.decode(features, features.weights[0].new_zeros(len(features), *shape))
        draws = range(self.hparams["samples"])
        return sum(model.decode(features, prior_draws(index, shape, draw)) for draw in draws) / len(draws)

    @property
    def protocol(self) -> dict[str, str]:
        """What a result must say: how scores became masks."""
        return {"cut": self.cut}

    def cut_scores(
        self, spec: NetworkSpec, scores: Tensor, index: Tensor, cut: str | None = None, sparsity: float | None = None
    ) -> Tensor:
        """Masks (B, T) from scores (B, T).

        Args:
            spec: of the networks.
            scores: logits of being kept.
            index: (B,) numbers of the pairs, which decide the draws of "sampled".
            cut: None: the task's.
            sparsity: None: the zoo's.
        """
        rule = self.rule if sparsity is None else replace(self.rule, sparsity=sparsity)
        cut = cut or self.cut
        if cut in WITHIN:
            return rule.keep_expected(spec, scores, cut)
        if cut == "sampled":
            uniform = torch.special.ndtr(prior_draws(index, scores.shape[1:], self.hparams["samples"]).double())
            scores = scores - uniform.clamp(1e-12, 1 - 1e-12).log().neg().log().to(scores)
        return rule.keep_largest(spec, scores)

    def validation_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Lower bound and overlap of one batch."""
        self._measure("val", batch)

    def on_test_epoch_start(self) -> None:
        """Forgets the networks of an earlier test, and chooses how scores become masks."""
        self._masks, self.predictions = [], []
        if self.hparams["cut"] == "validated":
            self._choose_cut()

    def _choose_cut(self) -> None:
        """Trains the validation pairs under their masks of each kind."""
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        batches = list(zoo.val_dataloader())
        index = torch.cat([batch.index for batch in batches])
        scores = torch.cat([self.predict_scores(batch.features, batch.index) for batch in batches])
        for cut in CUTS:
            masks = self.cut_scores(zoo.spec, scores, index, cut)
            self._cut_accuracy[cut] = float(zoo.mask_accuracy(index, masks).mean())
        self.cut = max(self._cut_accuracy, key=self._cut_accuracy.__getitem__)
        shown = ", ".join(f"{cut} {value:.4f}" for cut, value in self._cut_accuracy.items())
        log.info("masks by cut=%s: accuracies of the validation pairs: %s", self.cut, shown)

    def test_step(self, batch: ZooBatch, batch_idx: int) -> None:
        """Keeps the predicted masks, which are all trained at the end."""
        self._masks.append((batch.index.cpu(), self._measure("test", batch).cpu()))

    def _measure(self, stage: str, batch: ZooBatch) -> Tensor:
        """Logs lower bound and overlap; returns the predicted masks (B, T)."""
        model: Any = self.evaluated
        noise = prior_draws(batch.index, (batch.target.shape[1], model.latent), draw=-1)  # not that of the prediction
        loss, kl = self.lower_bound(model, batch, noise)
        scores = self.predict_scores(batch.features, batch.index)
        masks = self.cut_scores(batch.features.spec, scores, batch.index)
        overlap = self._overlaps(batch.features, masks, batch.target.bool()).mean()
        values = {f"{stage}/loss": loss, f"{stage}/kl": kl, f"{stage}/overlap": overlap}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch.target))
        return masks

    def _overlaps(self, features: WeightSpaceFeatures, masks: Tensor, true: Tensor) -> Tensor:
        """(B,): share of the kept prunable weights that the true masks keep."""
        prunable = self.rule.prunable(features.spec).to(masks.device)
        return (masks & true & prunable).sum(1) / (masks & prunable).sum(1)

    def on_test_epoch_end(self) -> None:
        """Trains the masked networks, logs their accuracies beside those of the other masks, and keeps all of them."""
        zoo = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it
        index, predicted = (torch.cat(part) for part in zip(*self._masks, strict=True))
        order = np.searchsorted(zoo.tables.rows["test"], index.numpy())
        masks = {"model": predicted, **{name: mask.cpu() for name, mask in zoo.known_masks(index).items()}}
        known = {name: values[order] for name, values in zoo.known_accuracy().items()}
        accuracy = {"model": zoo.mask_accuracy(index, predicted), **known}
        features = WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.ready[index.to(zoo.tables.device)])
        for name, values in accuracy.items():
            mask = masks.get(name, torch.ones_like(predicted))
            overlaps, dense = self._overlaps(features, mask.to(predicted), masks["imp"]), densities(zoo.spec, mask)
            for i, pair in enumerate(index.tolist()):
                shares = ";".join(f"{share:.6f}" for share in dense[i].tolist())
                self.predictions.append((pair, 0, name, float(values[i]), float(overlaps[i]), shares))
        own = accuracy.pop("model").astype(np.float64)
        spread = float(own.std(ddof=1)) if len(own) > 1 else 0.0
        self.log_dict(
            {
                "test/acc": float(own.mean()),
                "test/acc_std": spread,
                "test/acc_se": spread / len(own) ** 0.5,
                "test/acc_over_magnitude": float(own.mean()) - max(float(accuracy[name].mean()) for name in MAGNITUDES),
                **{f"val/acc/{name}": value for name, value in self._cut_accuracy.items()},
                **{f"test/acc/{name}": float(values.mean()) for name, values in accuracy.items()},
                **{f"test/acc_std/{name}": float(values.std(ddof=len(own) > 1)) for name, values in accuracy.items()},
            }
        )
        if not getattr(self.trainer, "fast_dev_run", False):
            self._keep_scores(zoo, index[:1], masks["imp"][:1])

    def _keep_scores(self, zoo: Any, index: Tensor, imp: Tensor) -> None:
        """Writes ``samples.npz``: weights of the first test network with their scores at a latent of zero."""
        device = zoo.tables.device
        features = WeightSpaceFeatures.from_flat(zoo.spec, zoo.tables.ready[index.to(device)])
        scores = self.predict_scores(features, index.to(device), latent="zero")[0].float().cpu().numpy()
        init, kept, random = zoo.tables.init[index.item()], imp[0].numpy(), np.random.default_rng(0)
        rows = [
            random.permutation(np.arange(where.start, where.stop))[:PICTURED] for where in zoo.spec.scalar_slices()[::2]
        ]
        layer = np.concatenate([np.full(len(part), i) for i, part in enumerate(rows)])
        flat = np.concatenate(rows)
        path = Path(self.trainer.default_root_dir) / "samples.npz"
        np.savez(path, layer=layer, weight=init[flat], score=scores[flat], imp=kept[flat])


def prior_draws(index: Tensor, shape: tuple[int, ...], draw: int) -> Tensor:
    """Standard normal (B, *shape): fixed for each pair (B,) and draw, on every device and in any batch."""
    seeds = [np.random.SeedSequence([pair, draw + 1]).generate_state(1, np.uint64)[0] for pair in index.tolist()]
    generators = [torch.Generator().manual_seed(int(seed >> 1)) for seed in seeds]
    return torch.stack([torch.randn(shape, generator=one) for one in generators]).to(index.device)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free for this process; None where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.exists():
        return None
    found = [line.split()[1] for line in info.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def check_memory(needed: int, free: int | None, batch_size: int) -> None:
    """Raises ValueError where a training step needs more memory than there is, with what would need less."""
    if free is not None and needed > free:
        raise ValueError(
            f"a training step of {batch_size} networks takes about {needed / 2**30:.1f} GiB, and "
            f"{free / 2**30:.1f} GiB are free. Smaller: model.checkpointing=true, model.networks_at_once=1, "
            "model.width or zoo.batch_size"
        )
