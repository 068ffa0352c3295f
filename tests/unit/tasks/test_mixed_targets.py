"""`inr_cls` trains on mixed targets as it does on classes."""

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from nfbench.tasks.inr_cls import InrClassification
from nfbench.weightspace import NetworkSpec, ZooBatch, random_features

CLASSES = torch.tensor([3, 0, 2, 1])


class Fixed(nn.Module):
    """Answers with the same logits, whatever it is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, features):
        return self.logits


@pytest.fixture
def step(monkeypatch):
    """step(target, label_smoothing) -> loss and what was logged, and the logits."""
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def run(target, label_smoothing=0.0):
        task = InrClassification(num_classes=5, label_smoothing=label_smoothing)
        task.model, logged = Fixed(logits), {}
        monkeypatch.setattr(task, "log", lambda name, value, **kwargs: logged.update({name: float(value)}))
        features = random_features(NetworkSpec.parse("2-3-1:sine"), 4, 1, torch.Generator())
        loss = task.training_step(ZooBatch(features, target, torch.arange(4), torch.zeros(4)), 0)
        return float(loss), logged, logits

    return run


def test_the_loss_is_the_cross_entropy_with_the_shares(step):
    shares = 0.7 * one_hot(CLASSES, 5).double() + 0.3 * one_hot(CLASSES.flip(0), 5)
    loss, logged, logits = step(shares)
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    assert loss == pytest.approx(float(expected), rel=1e-9)
    assert logged["train/acc"] == pytest.approx(float((logits.argmax(1) == CLASSES).double().mean()))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_unmixed_shares_are_classes(step, label_smoothing):
    classes, logged, _ = step(CLASSES, label_smoothing)
    shares, logged_of_shares, _ = step(one_hot(CLASSES, 5).double(), label_smoothing)
    assert shares == pytest.approx(classes, rel=1e-9)
    assert logged_of_shares["train/acc"] == logged["train/acc"]
