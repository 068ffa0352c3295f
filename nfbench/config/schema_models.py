"""The types of `conf/model/*.yaml`: one dataclass a model, its fields the arguments of the model's class."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class ModelConfig:
    """What every model has."""

    name: str = MISSING
    target: str = MISSING  # the class, as a dotted path


@dataclass
class NfnConfig(ModelConfig):
    """`nfbench.models.nfn.NFN`."""

    layer: str = MISSING
    widths: list[int] = MISSING
    fourier_size: int = MISSING
    fourier_scale: float = MISSING
    io: str = MISSING
    io_max_freq: float = MISSING
    io_num_bands: int = MISSING
    norm: str = MISSING
    dropout: float = MISSING
    pool: str = MISSING
    init: str = MISSING
    hnp_full_span: bool = MISSING
    head_width: int = MISSING
    head_dropout: float = MISSING


@dataclass
class ResNfnConfig(ModelConfig):
    """`nfbench.models.residual.ResNFN`."""

    layer: str = MISSING
    width: int = MISSING
    num_layers: int = MISSING
    fourier_size: int = MISSING
    fourier_scale: float = MISSING
    io: str = MISSING
    io_max_freq: float = MISSING
    io_num_bands: int = MISSING
    dropout: float = MISSING
    pool: str = MISSING
    init: str = MISSING
    hnp_full_span: bool = MISSING
    head_width: int = MISSING
    head_dropout: float = MISSING


@dataclass
class NftConfig(ModelConfig):
    """`nfbench.models.nft.NFT`."""

    width: int = MISSING
    num_blocks: int = MISSING
    num_heads: int = MISSING
    ff_factor: int = MISSING
    dropout: float = MISSING
    cross_term: bool = MISSING
    point_head: str = MISSING
    fourier_scale: float = MISSING
    num_queries: int = MISSING
    head_width: int = MISSING
    head_dropout: float = MISSING
    head_activation: str = MISSING


@dataclass
class MlpConfig(ModelConfig):
    """`nfbench.models.mlp.FlatMLP`."""

    width: int = MISSING
    num_hidden: int = MISSING
    dropout: float = MISSING
    permute: bool = MISSING
    sigmoid: bool = MISSING


@dataclass
class StatNNConfig(ModelConfig):
    """`nfbench.models.statnn.StatNN`."""

    width: int = MISSING
    dropout: float = MISSING


@dataclass
class NfnGatedConfig(ModelConfig):
    """`nfbench.models.gated.NFNGated`."""

    layer: str = MISSING
    width: int = MISSING
    num_blocks: int = MISSING
    fourier_scale: float = MISSING
    head_width: int = MISSING
    head_dropout: float = MISSING
    head_activation: str = MISSING


@dataclass
class GmnConfig(ModelConfig):
    """`nfbench.models.gmn.GMN`."""

    width: int = MISSING
    num_rounds: int = MISSING
    num_functions: int = MISSING
    sign: bool | None = MISSING
    head_width: int = MISSING
    head_dropout: float = MISSING


@dataclass
class Inr2ArrayEncoderConfig(ModelConfig):
    """`nfbench.models.inr2array.Inr2ArrayEncoder`."""

    block: str = MISSING
    width: int = MISSING
    num_blocks: int = MISSING
    num_heads: int = MISSING
    ff_factor: int = MISSING
    dropout: float = MISSING
    fourier_scale: float = MISSING


@dataclass
class GbmConfig(ModelConfig):
    """`nfbench.models.gbm.GBM`."""

    num_trees: int = MISSING
    depths: list[int] = MISSING
    learning_rate: float = MISSING
    subsample: float = MISSING
    max_features: float = MISSING


@dataclass
class TicketVaeConfig(ModelConfig):
    """`nfbench.models.ticket_vae.TicketVAE`."""

    layer: str = MISSING
    width: int = MISSING
    num_layers: int = MISSING
    latent: int = MISSING
    norm: str = MISSING
    io: str = MISSING
    io_max_freq: float = MISSING
    io_num_bands: int = MISSING
    init: str = MISSING
    num_heads: int = MISSING
    ff_factor: int = MISSING
    checkpointing: bool = MISSING
    networks_at_once: int = MISSING


MODEL_SCHEMAS: dict[str, type[ModelConfig]] = {
    "nfn": NfnConfig,
    "nfn_res": ResNfnConfig,
    "nfn_gated": NfnGatedConfig,
    "gmn": GmnConfig,
    "nft": NftConfig,
    "inr2array": Inr2ArrayEncoderConfig,
    "mlp": MlpConfig,
    "statnn": StatNNConfig,
    "gbm": GbmConfig,
    "ticket_vae": TicketVaeConfig,
}
