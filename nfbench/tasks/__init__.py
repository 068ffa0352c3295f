"""What is learned from a zoo: the loss, the metric, the optimiser. One LightningModule a file."""

from nfbench.tasks.cnn_gen import CnnGeneralization
from nfbench.tasks.inr_cls import InrClassification
from nfbench.tasks.inr_edit import InrEditing
from nfbench.tasks.tickets import WinningTickets

__all__ = ["CnnGeneralization", "InrClassification", "InrEditing", "WinningTickets"]
