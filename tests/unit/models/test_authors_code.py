"""The options that `docs/authors_code.md` names exist, with the values it names."""

import re
from pathlib import Path

import pytest
import torch

from nfbench.config.build import build_model
from nfbench.config.schema import options
from nfbench.weightspace import NetworkSpec

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "authors_code.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:model|task|zoo)\.\w+=[\w.]+)`", TEXT)))
CHOSEN = sorted(set(re.findall(r"`((?:model|experiment)=[\w/]+)`", TEXT)))


def test_the_page_names_its_options() -> None:
    assert len(NAMED) > 20
    assert len(CHOSEN) > 4
    assert all(
        f"`{word}" in TEXT for word in ("model.fourier_scale=", "model.pool=", "model.init=", "zoo.standardize=")
    )


@pytest.mark.parametrize("option", NAMED)
def test_option_exists(composed, option: str) -> None:
    group, key = re.split("[.=]", option)[:2]
    # Those of models are tried on the first model that has the key and builds with the value.
    for name in options()[group]:
        if key in composed(f"{group}={name}")[group]:
            cfg = composed(f"{group}={name}", option)
            if group != "model":
                return
            try:
                with torch.device("meta"):
                    build_model(cfg.model, spec=NetworkSpec.parse("2-4-4-1:sine"), out_dim=3)
                return
            except ValueError:
                continue
    pytest.fail(f"no {group} takes {option}")


@pytest.mark.parametrize("choice", CHOSEN)
def test_choice_exists(composed, choice: str) -> None:
    assert composed(choice).model.target
