"""What is learned from a zoo: the loss, the metric, the optimiser. One LightningModule a file."""

from nfbench.tasks.cnn_gen import CnnGeneralization
from nfbench.tasks.inr_cls import InrClassification

__all__ = ["CnnGeneralization", "InrClassification"]
