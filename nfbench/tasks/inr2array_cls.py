"""Classification of latent arrays: what `inr_cls` does, on what a trained Inr2Array encoder makes of the networks."""

from typing import Any

from nfbench.tasks.inr_cls import InrClassification

VIEWS = ("one", "all")


class Inr2ArrayClassification(InrClassification):
    """Cross-entropy and accuracy over classes from latent arrays (B, M, C), by a Transformer.

    Args:
        num_classes: how many classes the zoo has.
        encoder: run folder of the trained encoder; `nfbench.config.encoder` reads it.
        encoder_hash: of its best checkpoint; another one is refused.
        views: "all": all networks of a training image are encoded; "one": the first (the authors' code).
        augmented_epochs: epochs of augmented training networks that are encoded beside these.
        encode_batch_size: networks that are encoded at once.
        width, num_blocks, num_heads, ff_width, dropout, max_latents: of `nfbench.models.latent.LatentTransformer`.
        optimizer, lr, weight_decay, schedule, warmup_steps, warmup_share, label_smoothing, ema_decay: see
            `InrClassification`.

    Raises:
        ValueError: for a zoo without classes, or a value that is not allowed.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        encoder: str | None = None,
        encoder_hash: str | None = None,
        views: str = "all",
        augmented_epochs: int = 0,
        encode_batch_size: int = 512,
        width: int = 512,
        num_blocks: int = 12,
        num_heads: int = 4,
        ff_width: int = 2048,
        dropout: float = 0.1,
        max_latents: int = 64,
        optimizer: str = "adamw",
        lr: float = 1e-4,
        weight_decay: float = 0.1,
        schedule: str = "cosine",
        warmup_steps: int = 10_000,
        warmup_share: float = 0.1,
        label_smoothing: float = 0.0,
        ema_decay: float = 0.0,
    ) -> None:
        super().__init__(
            num_classes=num_classes, optimizer=optimizer, lr=lr, weight_decay=weight_decay, schedule=schedule,
            warmup_steps=warmup_steps, warmup_share=warmup_share, label_smoothing=label_smoothing,
            ema_decay=ema_decay,
        )  # fmt: skip
        self.save_hyperparameters()
        self.check_settings(
            label_smoothing=(0.0, 1.0),
            dropout=(0.0, 1.0),
            augmented_epochs=(0, 10_000),
            encode_batch_size=(1, 1_000_000),
        )
        if views not in VIEWS:
            raise ValueError(f"task.views={views!r} is unknown: choose one of {', '.join(VIEWS)}")

    @property
    def classifier(self) -> dict[str, Any]:
        """The sizes of the Transformer."""
        names = ("width", "num_blocks", "num_heads", "ff_width", "dropout", "max_latents")
        return {name: self.hparams[name] for name in names}
