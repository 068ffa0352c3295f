"""Who may import whom: the arrows of the design, read from the sources."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nfbench"
# room -> what it may import beyond itself and the standard library
ARROWS = {
    "weightspace": {"torch"},
    "layers": {"torch", "nfbench.weightspace"},
    "models": {"torch", "nfbench.weightspace", "nfbench.layers"},
    "tasks": {"torch", "nfbench.weightspace", "lightning", "torchmetrics", "numpy", "scipy", "sklearn"},
    "zoos": {"torch", "nfbench.weightspace", "lightning", "h5py", "numpy", "safetensors", "sklearn", "tqdm", "cv2"},
    "measures": {"torch", "nfbench.weightspace"},
    "report": {"numpy", "pandas", "matplotlib", "PIL", "umap"},
}
NO_TORCH = ["__init__", "config/__init__", "config/schema", "config/schema_models", "config/schema_zoos",
            "config/errors", "config/identity", "config/job", "config/sweep", "zoos/recipe"]  # fmt: skip


def imports(path: Path) -> set[str]:
    """`nfbench.room` or top-level package of every import in the file, late ones too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
    return {".".join(name.split(".")[: 2 if name.startswith("nfbench") else 1]) for name in found}


@pytest.mark.parametrize("room", ARROWS)
def test_room_imports_only_what_it_may(room: str) -> None:
    files = list((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        extra = imports(path) - ARROWS[room] - {"nfbench", f"nfbench.{room}"} - set(sys.stdlib_module_names)
        assert not extra, f"{path.relative_to(ROOT)} imports {sorted(extra)}; {room} may import {sorted(ARROWS[room])}"


def test_only_config_knows_hydra_and_only_tracking_knows_wandb() -> None:
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0]
        assert "hydra" not in imports(path) or room == "config", path
        assert "wandb" not in imports(path) or room == "tracking.py", path
        assert "pytorch_lightning" not in imports(path), path


@pytest.mark.parametrize("name", NO_TORCH)
def test_what_help_needs_imports_no_torch(name: str) -> None:
    heavy = {"torch", "lightning", "numpy", "nfbench.train", "nfbench.weightspace", "nfbench.models"}
    assert not imports(PACKAGE / f"{name}.py") & heavy


def test_the_check_notices() -> None:
    assert {"lightning", "nfbench.config"} <= imports(PACKAGE / "train.py")
    assert not imports(PACKAGE / "train.py") <= ARROWS["tasks"]


def test_recipes_can_be_read_without_torch() -> None:
    code = "import sys, nfbench.zoos.recipe, nfbench.config; print(sorted({'torch', 'h5py'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
