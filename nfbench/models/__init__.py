"""Models: from the weights of a batch of networks to (B, out_dim), or to an edit of them; they need torch alone."""

from nfbench.models.gated import NFNGated
from nfbench.models.gmn import GMN
from nfbench.models.mlp import FlatMLP
from nfbench.models.nfn import NFN
from nfbench.models.nft import NFT
from nfbench.models.residual import ResNFN
from nfbench.models.statnn import StatNN
from nfbench.models.ticket_vae import TicketVAE

__all__ = ["GMN", "NFN", "NFT", "FlatMLP", "NFNGated", "ResNFN", "StatNN", "TicketVAE"]
