"""What is learned from a zoo: the loss, the metric, the optimiser. One LightningModule a file."""

from nfbench.tasks.cnn_gen import CnnGeneralization
from nfbench.tasks.inr2array import Inr2ArrayTask
from nfbench.tasks.inr2array_cls import Inr2ArrayClassification
from nfbench.tasks.inr_cls import InrClassification
from nfbench.tasks.inr_edit import InrEditing
from nfbench.tasks.tickets import WinningTickets

__all__ = [
    "CnnGeneralization",
    "Inr2ArrayClassification",
    "Inr2ArrayTask",
    "InrClassification",
    "InrEditing",
    "WinningTickets",
]
