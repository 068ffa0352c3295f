"""Models: from the weights of a batch of networks to (B, out_dim); they need torch and nothing else."""

from nfbench.models.gated import NFNGated
from nfbench.models.mlp import FlatMLP
from nfbench.models.nfn import NFN
from nfbench.models.nft import NFT
from nfbench.models.statnn import StatNN

__all__ = ["NFN", "NFT", "FlatMLP", "NFNGated", "StatNN"]
