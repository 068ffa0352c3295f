"""Measures of trained networks that are thought to tell how well they generalise, and the loss around them."""

from nfbench.measures.curvature import TopEigenvalue, difference_product, hessian_product, top_eigenvalue
from nfbench.measures.directions import NORMS, filter_normalize, network_direction, random_direction
from nfbench.measures.forward import Losses, cross_entropies, logits
from nfbench.measures.landscape import line, plane, sharpness
from nfbench.measures.measure import MEASURES, Settings, measure
from nfbench.measures.norms import JacobianNorms, classifier_jacobian_norms, jacobian_norms, margins, weight_norms

__all__ = [
    "MEASURES",
    "NORMS",
    "JacobianNorms",
    "Losses",
    "Settings",
    "TopEigenvalue",
    "classifier_jacobian_norms",
    "cross_entropies",
    "difference_product",
    "filter_normalize",
    "hessian_product",
    "jacobian_norms",
    "line",
    "logits",
    "margins",
    "measure",
    "network_direction",
    "plane",
    "random_direction",
    "sharpness",
    "top_eigenvalue",
    "weight_norms",
]
