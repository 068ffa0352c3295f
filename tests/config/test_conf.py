"""Every option composes, and every schema has the fields of the class it describes."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf

from nfbench.config.build import ABOUT, build_model, build_task, build_zoo, get_class
from nfbench.config.identity import config_hash, differences, identity
from nfbench.config.schema import CONF, options

GROUPS = ("task", "model", "zoo", "trainer", "logger", "experiment")
CHOICES = [(group, name) for group in GROUPS for name in options()[group]]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_option_composes_and_resolves(composed, group: str, name: str) -> None:
    cfg = composed(f"{group}={name}")
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    if group in ("task", "model", "zoo", "logger"):
        assert plain[group]["name"] == name
        assert OmegaConf.get_type(cfg[group]) is not dict, "the file does not start from its schema"


@pytest.mark.parametrize(("group", "name"), [c for c in CHOICES if c[0] in ("task", "model", "zoo")])
def test_schema_fields_are_the_arguments(composed, group: str, name: str) -> None:
    cfg = composed(f"{group}={name}")[group]
    named = {item.name for item in fields(OmegaConf.get_type(cfg))} - set(ABOUT)
    taken = set(inspect.signature(get_class(cfg.target)).parameters)
    met_in_code = {"spec", "out_dim"} if group == "model" else {"num_classes"} if group == "task" else set()
    assert named == taken - met_in_code


@pytest.mark.parametrize("name", options()["model"])
def test_every_model_builds_on_the_default_zoo(composed, name: str) -> None:
    cfg = composed(f"model={name}")
    zoo = build_zoo(cfg.zoo)
    task = build_task(cfg.task, zoo)
    model = build_model(cfg.model, spec=zoo.spec, out_dim=task.out_dim)
    assert sum(p.numel() for p in model.parameters()) > 0


def test_zoo_follows_task_and_the_command_line_wins(composed) -> None:
    assert composed("task=inr_cls").zoo.name == "siren_digits"
    assert composed("task=inr_cls", "zoo=siren_mnist").zoo.name == "siren_mnist"
    assert composed("experiment=smoke", "zoo=siren_mnist", "zoo.num_images=9").zoo.num_images == 9


def test_every_yaml_file_starts_from_a_schema() -> None:
    for path in CONF.glob("*/*.yaml"):
        text = path.read_text()
        assert "_schema" in text or "@package _global_" in text, f"{path}: a typo in it would be ignored"


def test_a_typo_inside_a_file_is_noticed(composed, tmp_path: Path) -> None:
    with pytest.raises(ConfigCompositionException):
        composed("model.widht=3")
    with pytest.raises(HydraException):
        composed("model=nftt")


def test_hash_is_of_what_is_computed(composed) -> None:
    one = config_hash(composed())
    for same in ("seed=3", "logger=csv", "data_dir=/x", "zoo_dir=/y", "threads=1", "size=tiny", "rerun=true"):
        assert config_hash(composed(same)) == one, same
    for other in ("model=mlp", "task.lr=1", "zoo.num_views=3", "trainer.max_epochs=2", "+trainer.max_time=1"):
        assert config_hash(composed(other)) != one, other


def test_differences_name_keys(composed) -> None:
    rows = differences(identity(composed()), identity(composed("model.num_blocks=9", "task.lr=1")))
    assert [row[0] for row in rows] == ["task.lr", "model.num_blocks"]
