"""Weight spaces: which networks there are, batches of their weights, and the symmetries between them."""

from nfbench.weightspace.augment import sample_rigid_motion, transform_coordinates
from nfbench.weightspace.canonicalise import canonicalize
from nfbench.weightspace.features import WeightSpaceFeatures, ZooBatch, random_features
from nfbench.weightspace.permute import NeuronPermutation, permute_uncoupled
from nfbench.weightspace.spec import ACTIVATIONS, LayerSpec, NetworkSpec, random_spec

__all__ = [
    "ACTIVATIONS",
    "LayerSpec",
    "NetworkSpec",
    "NeuronPermutation",
    "WeightSpaceFeatures",
    "ZooBatch",
    "canonicalize",
    "permute_uncoupled",
    "random_features",
    "random_spec",
    "sample_rigid_motion",
    "transform_coordinates",
]
