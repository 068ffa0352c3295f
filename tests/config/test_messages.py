"""What a person reads after a typo: the key, where, the options, what was probably meant; never a traceback."""

import runpy
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).resolve().parents[2]

TYPOS = {
    "zoo.definition=dw": ["zoo.definition='dw' is not known", "digits, nfn, dws, dws_mnist, dws_fashion"],
    "size=ful": ["size=ful is unknown", "tiny, cpu, full"],
    "task.report=nfbench.report.inr_clss": ["task.report=nfbench.report.inr_clss", "No module named"],
    "task.metric=test/accuracy": ["task.metric=test/accuracy is unknown", "test/acc"],
    "model=nftt": ["no model `nftt`", "did you mean nft", "nft, statnn"],
    "zoo=siren_digit": ["no zoo `siren_digit`", "did you mean siren_digits"],
    "task=inr": ["no task `inr`", "inr_cls"],
    "experiment=smok": ["no experiment `smok`", "smoke"],
    "modle=nft": ["no key `modle`", "did you mean model"],
    "seeed=1": ["no key `seeed`", "did you mean seed"],
    "model.num_blokcs=2": ["no key `num_blokcs`", "group `model`", "did you mean num_blocks"],
    "zoo.num_image=2": ["no key `num_image`", "did you mean num_images"],
    "trainer.max_epoch=3": ["no key `max_epoch`", "did you mean max_epochs", "+trainer.max_epoch"],
    "trainer.max_epochs=abc": ["trainer.max_epochs", "'abc'", "It takes: int"],
    "task.lr=fast": ["task.lr", "'fast'", "It takes: float"],
    "+trainer.max_epochs=4": ["in the config already", "+ sign"],
    "model.num_blocks=[1": ["key=value"],
    "zoo.name": ["key=value"],
}


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """told("modle=nft") -> (exit code, what was printed), in this process."""

    def run(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["run.py", *arguments])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        return stop.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize("argument", TYPOS)
def test_typo(told, tmp_path: Path, argument: str) -> None:
    code, text = told(argument, *([] if argument.startswith("zoo.name") else [f"output_dir={tmp_path}"]))
    assert code == 1
    assert "Traceback" not in text
    assert len(text.splitlines()) < 12
    assert "_schema" not in text
    for part in TYPOS[argument]:
        assert part in text


HEAVY = ("torch", "lightning", "torchmetrics", "wandb", "scipy", "sklearn", "matplotlib", "h5py")


def test_help_imports_nothing_heavy(cli) -> None:
    """What makes ``--help`` slow is imports, and they can be counted; its seconds depend on the machine."""
    report = f"import atexit; atexit.register(lambda: print('heavy:', [m for m in {HEAVY!r} if m in sys.modules]))"
    done = cli("--help", patch=report)
    assert done.returncode == 0, done.stderr
    assert "siren_digits" in done.stdout
    assert "_schema" not in done.stdout
    assert done.stdout.rstrip().endswith("heavy: []")


def test_cfg_job_resolves_without_data(cli) -> None:
    done = cli("zoo=siren_cifar10", "--cfg", "job", "--resolve", NFBENCH_DATA_DIR="/nowhere")
    assert done.returncode == 0, done.stderr
    assert "data_dir: data\n" in done.stdout
    assert "  lr: 5.0e-05\n  num_steps: 5000\n" in done.stdout, "the numbers of the recipe, not its name only"


@pytest.mark.parametrize(
    ("argument", "extra"),
    [("launcher=slurm", "slurm"), ("launcher=submitit_local", "slurm"), ("experiment=tune_digits", "tune")],
)
def test_a_plugin_that_is_not_installed(cli, argument: str, extra: str) -> None:
    ours_only = "import hydra_plugins as p; p.__path__ = [each for each in p.__path__ if 'site-packages' not in each]"
    done = cli("-m", argument, patch=ours_only)
    assert done.returncode == 1
    assert f"pip install -e '.[{extra}]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr


def test_slurm_without_slurm(cli, tmp_path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")
    done = cli("launcher=slurm", f"output_dir={tmp_path}", PATH="/nowhere")
    assert done.returncode == 1
    assert "launcher=slurm needs Slurm, and there is no sbatch, srun, squeue here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_typo_in_a_setting_of_the_launcher(cli, tmp_path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install -e '.[slurm]'")
    done = cli("launcher=slurm", f"output_dir={tmp_path}", "hydra.launcher.partitoin=gpu")
    assert done.returncode == 1
    assert "no key `partitoin`" in done.stderr
    assert "did you mean partition" in done.stderr
    wrong = cli("launcher=slurm", f"output_dir={tmp_path}", "hydra.launcher.timeout_min=long")
    assert wrong.returncode == 1
    assert "hydra.launcher.timeout_min: value 'long'" in wrong.stderr
    assert "It takes: int" in wrong.stderr
