"""Every option composes, and every schema has the fields of the class it describes."""

import inspect
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf

from nfbench.config import register
from nfbench.config.build import ABOUT, build_model, build_task, build_zoo, get_class
from nfbench.config.identity import config_hash, differences, identity
from nfbench.config.schema import CONF, options
from nfbench.weightspace import NetworkSpec, random_features
from nfbench.weightspace.testing import assert_equivariant, assert_invariant
from nfbench.zoos import recipe
from nfbench.zoos.recipe import DEFINITIONS

GROUPS = ("task", "model", "zoo", "trainer", "logger", "launcher", "experiment")
CHOICES = [(group, name) for group in GROUPS for name in options()[group]]


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_option_composes_and_resolves(composed, group: str, name: str) -> None:
    cfg = composed(f"{group}={name}")
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    if group in ("task", "model", "zoo", "logger"):
        given = plain[group]["name"]  # runs of published sizes may be named after the model
        assert given == Path(name).name or (name.startswith("paper/") and f"paper/{given}_" in name)
        assert OmegaConf.get_type(cfg[group]) is not dict, "the file does not start from its schema"


@pytest.mark.parametrize(("group", "name"), [c for c in CHOICES if c[0] in ("task", "model", "zoo")])
def test_schema_fields_are_the_arguments(composed, group: str, name: str) -> None:
    cfg = composed(f"{group}={name}")[group]
    named = {item.name for item in fields(OmegaConf.get_type(cfg))} - set(ABOUT)
    taken = set(inspect.signature(get_class(cfg.target)).parameters)
    met = {
        "model": {"spec", "out_dim", "num_latents", "spatial"},
        "task": {"num_classes", "group_name", "pruning", "edits"},
    }
    assert named == taken - met.get(group, set())


# Models that write weights too (out_dim None), and the sizes of the papers, of up to half a gigabyte.
# gbm is not trained by gradient, inr2array is an encoder only, and vae/... draws masks: they have tests of their own.
CPU_MODELS = [name for name in options()["model"] if "/" not in name and name not in ("gbm", "inr2array")]
CASES = [(name, out_dim) for name in CPU_MODELS for out_dim in (7, None) if (name, out_dim) != ("statnn", None)]


@pytest.mark.parametrize("text", ["2-32-32-1:sine", "1-4c3-4c3-10:relu"])
@pytest.mark.parametrize(("name", "out_dim"), CASES)
def test_every_model_keeps_its_contract(composed, name: str, out_dim: int | None, text: str) -> None:
    spec = NetworkSpec.parse(text)
    torch.manual_seed(0)
    model = build_model(composed(f"model={name}").model, spec=spec, out_dim=out_dim)
    x = random_features(spec, 3, 1, torch.Generator().manual_seed(0))
    out = model(x) if out_dim else model(x).check().flatten().squeeze(-1)
    assert out.shape == (3, out_dim or spec.num_params)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", [name for name in options()["model"] if name.startswith(("paper/", "edit/"))])
def test_models_of_the_papers_sizes_fit_both_outputs(composed, name: str) -> None:
    cfg = composed(f"model={name}").model
    spec = NetworkSpec.parse("1-16c3-16c3-16c3-10:relu" if name.endswith("_cnn") else "2-32-32-3:sine")
    x = random_features(spec, 2, 1, torch.Generator().manual_seed(0)).to("meta")  # shapes without numbers
    with torch.device("meta"):
        assert build_model(cfg, spec=spec, out_dim=7)(x).shape == (2, 7)
        edit = build_model(cfg, spec=spec, out_dim=None)(x).check()
    assert (edit.batch_size, edit.channels) == (2, 1)


@pytest.mark.parametrize(("name", "out_dim"), CASES)
def test_every_model_has_the_symmetry_it_declares(composed, name: str, out_dim: int | None) -> None:
    cfg = composed(f"model={name}").model

    def build(spec: NetworkSpec) -> torch.nn.Module:
        return build_model(cfg, spec=spec, out_dim=out_dim)

    declared = build(NetworkSpec.parse("2-3-1:sine")).symmetry
    assert declared in ("none", "invariant" if out_dim else "hnp")
    if declared == "invariant":
        assert_invariant(build, num_specs=2)
    elif declared == "hnp":
        assert_equivariant(build, channels=1, num_specs=2)


def test_a_model_of_an_experiment_is_the_model_that_is_named(composed) -> None:
    """An experiment with keys of `model:` gives them to every model chosen beside it, as `tickets_cpu` means to."""
    files = {name: OmegaConf.load(CONF / "experiment" / f"{name}.yaml") for name in options()["experiment"]}
    assert {name for name, file in files.items() if "model" in file} == {"tickets_cpu_cifar10", "tickets_cpu_mnist"}
    for name in ("nft_mnist", "edit_small", "inr2array_mnist_cls"):
        found = composed(f"experiment={name}", "model=paper/nfn_np_scale3").model
        assert found == composed("model=paper/nfn_np_scale3").model


@pytest.mark.parametrize("name", options()["experiment"])
def test_every_experiment_builds(composed, name: str) -> None:
    cfg = composed(f"experiment={name}")
    zoo = build_zoo(cfg.zoo)
    task = build_task(cfg.task, zoo)
    with torch.device("meta"):
        latents = task.latents() if hasattr(task, "latents") else None
        build_model(cfg.model, spec=zoo.spec, out_dim=task.out_dim, latents=latents)
    assert cfg.size in ("tiny", "cpu", "full")
    if cfg.size == "full" and cfg.task.name == "inr_cls":
        steps = -(-len(zoo.split.train) * cfg.zoo.views_per_epoch // cfg.zoo.batch_size) * cfg.trainer.max_epochs
        assert abs(steps - 200_000) < 1_500
        assert zoo.label == "nfn", "the published recipe, with nothing replaced"
    if cfg.size == "full" and cfg.task.name == "inr_edit":
        steps = -(-len(zoo.split.train) // cfg.zoo.batch_size) * cfg.trainer.max_epochs
        assert abs(steps - 50_000) < 1_000
        assert (zoo.label, len(zoo.split.train), len(zoo.split.val)) == ("nfn", 45_000, 5_000)


RECIPE_KEYS = [item.name for item in fields(recipe.SirenRecipe) if item.name not in ("seed", "dtype")]


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("name", [name for name in options()["zoo"] if name.startswith("siren_")])
def test_zoo_configs_show_the_numbers_of_the_recipe(composed, name: str, definition: str) -> None:
    cfg = composed(f"zoo={name}", f"zoo.definition={definition}").zoo
    wanted = recipe.make_recipe(definition)[0].to_plain()
    keys = [key for key in RECIPE_KEYS if key in cfg]  # shapes have no pixels and no grid
    assert {"widths", "w0_first", "lr", "num_steps"} <= set(keys)
    assert {key: OmegaConf.to_container(cfg, resolve=True)[key] for key in keys} == {key: wanted[key] for key in keys}
    assert build_zoo(cfg).label == definition, "values equal to the definition's are no change of it"
    assert build_zoo(composed(f"zoo={name}", f"zoo.definition={definition}", "zoo.lr=0.5").zoo).label == (
        f"{definition}+lr=0.5"
    )


def test_a_changed_recipe_is_another_run(composed, monkeypatch: pytest.MonkeyPatch) -> None:
    before = config_hash(composed())
    monkeypatch.setitem(DEFINITIONS["digits"], "lr", 0.5)
    assert composed().zoo.lr == 0.5
    assert config_hash(composed()) != before


def test_zoo_follows_task_and_the_command_line_wins(composed) -> None:
    assert composed("task=inr_cls").zoo.name == "siren_digits"
    assert composed("task=inr_cls", "zoo=siren_mnist").zoo.name == "siren_mnist"
    assert composed("experiment=smoke", "zoo=siren_mnist", "zoo.num_images=9").zoo.num_images == 9


def test_every_yaml_file_starts_from_a_schema() -> None:
    for path in CONF.glob("*/**/*.yaml"):
        text, group = path.read_text(), path.relative_to(CONF).parts[0]
        heads = [f"defaults: [{name}, _self_]" for name in options()[group]]  # an option of the same group
        heads += [f"defaults: [/{group}/{name}@_here_, _self_]" for name in options()[group]]
        known = "_schema" in text or "@package _global_" in text or any(head in text for head in heads)
        assert known, f"{path}: a typo in it would be ignored"


def test_a_typo_inside_a_file_is_noticed(tmp_path: Path) -> None:
    register()
    conf = shutil.copytree(CONF, tmp_path / "conf")
    for group, name in (("model", "nft"), ("zoo", "siren_digits"), ("task", "inr_cls"), ("trainer", "default")):
        file = conf / group / f"{name}.yaml"
        text = file.read_text()
        file.write_text(f"{text}widht: 3\n")
        with initialize_config_dir(str(conf), version_base="1.3"), pytest.raises(HydraException, match="widht"):
            compose("config")
        file.write_text(text)
    (conf / "experiment" / "mine.yaml").write_text("# @package _global_\nmodel:\n  widht: 3\n")
    with initialize_config_dir(str(conf), version_base="1.3"):
        compose("config")
        with pytest.raises(HydraException, match="widht"):
            compose("config", overrides=["experiment=mine"])


def test_hash_is_of_what_is_computed(composed) -> None:
    one = config_hash(composed())
    for same in ("seed=3", "logger=csv", "data_dir=/x", "zoo_dir=/y", "threads=1", "size=tiny", "rerun=true"):
        assert config_hash(composed(same)) == one, same
    for other in ("model=mlp", "task.lr=1", "zoo.num_views=3", "trainer.max_epochs=2", "+trainer.max_time=1"):
        assert config_hash(composed(other)) != one, other


def test_differences_name_keys(composed) -> None:
    rows = differences(identity(composed()), identity(composed("model.num_blocks=9", "task.lr=1")))
    assert [row[0] for row in rows] == ["task.lr", "model.num_blocks"]
