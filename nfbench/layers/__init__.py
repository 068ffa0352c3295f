"""NF-layers: plain `torch.nn.Module`s from and to `WeightSpaceFeatures`; they need torch and nothing else."""

from nfbench.layers.attention import NFTBlock, NPAttention
from nfbench.layers.compat import from_nfn_state_dict, to_nfn_state_dict
from nfbench.layers.encode import GaussianFourierFeatures, IOSinusoidalEncoding, LearnedPosEmbedding
from nfbench.layers.hnp import HNPLinear
from nfbench.layers.linear import NPLinear, Pointwise
from nfbench.layers.norm import ChannelLayerNorm
from nfbench.layers.pool import CrossAttentionPool, HNPPool, NPPool

__all__ = [
    "ChannelLayerNorm",
    "CrossAttentionPool",
    "GaussianFourierFeatures",
    "HNPLinear",
    "HNPPool",
    "IOSinusoidalEncoding",
    "LearnedPosEmbedding",
    "NFTBlock",
    "NPAttention",
    "NPLinear",
    "NPPool",
    "Pointwise",
    "from_nfn_state_dict",
    "to_nfn_state_dict",
]
