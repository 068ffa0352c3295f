"""Weight spaces: which networks there are, batches of their weights, and the symmetries between them."""

from nfbench.weightspace.augment import (
    Mixup,
    SineSymmetry,
    add_noise,
    drop_weights,
    sample_flips,
    sample_rigid_motion,
    sample_spatial_motion,
    transform_coordinates,
)
from nfbench.weightspace.canonicalise import CanonicalForm, canonical_form, canonicalize
from nfbench.weightspace.features import WeightSpaceFeatures, ZooBatch, random_features
from nfbench.weightspace.importing import read_networks
from nfbench.weightspace.masks import Pruning, densities, largest_within_tensors, tensor_counts
from nfbench.weightspace.permute import NeuronPermutation, permute_uncoupled
from nfbench.weightspace.render import CellRenderer, nearest_cells, render
from nfbench.weightspace.spec import ACTIVATIONS, LayerSpec, NetworkSpec, random_spec

__all__ = [
    "ACTIVATIONS",
    "CanonicalForm",
    "CellRenderer",
    "LayerSpec",
    "Mixup",
    "NetworkSpec",
    "NeuronPermutation",
    "Pruning",
    "SineSymmetry",
    "WeightSpaceFeatures",
    "ZooBatch",
    "add_noise",
    "canonical_form",
    "canonicalize",
    "densities",
    "drop_weights",
    "largest_within_tensors",
    "nearest_cells",
    "permute_uncoupled",
    "random_features",
    "random_spec",
    "read_networks",
    "render",
    "sample_flips",
    "sample_rigid_motion",
    "sample_spatial_motion",
    "tensor_counts",
    "transform_coordinates",
]
