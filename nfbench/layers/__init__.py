"""NF-layers: plain `torch.nn.Module`s from and to `WeightSpaceFeatures`; they need torch and nothing else."""

from nfbench.layers.attention import NFTBlock, NPAttention
from nfbench.layers.compat import from_nfn_state_dict, to_nfn_state_dict
from nfbench.layers.encode import GaussianFourierFeatures, IOSinusoidalEncoding, LearnedPosEmbedding
from nfbench.layers.hnp import HNPLinear
from nfbench.layers.linear import NPLinear, Pointwise
from nfbench.layers.misc import ChannelDropout, LearnedScale, ResBlock, StatFeaturizer
from nfbench.layers.norm import ChannelLayerNorm, ParamLayerNorm, SimpleLayerNorm
from nfbench.layers.pool import CrossAttentionPool, HNPPool, NPPool

__all__ = [
    "ChannelDropout",
    "ChannelLayerNorm",
    "CrossAttentionPool",
    "GaussianFourierFeatures",
    "HNPLinear",
    "HNPPool",
    "IOSinusoidalEncoding",
    "LearnedPosEmbedding",
    "LearnedScale",
    "NFTBlock",
    "NPAttention",
    "NPLinear",
    "NPPool",
    "ParamLayerNorm",
    "Pointwise",
    "ResBlock",
    "SimpleLayerNorm",
    "StatFeaturizer",
    "from_nfn_state_dict",
    "to_nfn_state_dict",
]
