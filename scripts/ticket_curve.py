"""Accuracy against sparsity for each source of masks: a finished run of task=tickets, IMP and the baselines.

python scripts/ticket_curve.py outputs/tickets/nfn_pt-tickets_mnist-seed0-1a2b3c4d
python scripts/ticket_curve.py RUN_FOLDER --sparsities 0.8 0.9 0.95 0.98 --networks 16

The run's model scores the weights of held-out initialisations as in its test, and its scores are cut at each sparsity.
IMP, SNIP and the others are done anew at each. Writes curve.json and curve.png into the run folder.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from tqdm import tqdm

from nfbench.config import errors, register
from nfbench.config.build import build_model, build_task, build_zoo
from nfbench.report.tickets import draw_curve
from nfbench.resume import read_checkpoint

SPARSITIES = (0.8, 0.9, 0.95, 0.98)


def load_run(folder: Path) -> tuple[Any, Any]:
    """The task, with the model of its best checkpoint, and the zoo of a run, loaded.

    Raises:
        ValueError: no run of task=tickets.
    """
    file = folder / ".hydra" / "config.yaml"
    if not file.exists() or not (folder / "summary.json").exists():
        raise ValueError(f"{folder} is no folder of a finished run: give one of task=tickets")
    register()
    cfg: Any = OmegaConf.load(file)
    if cfg.task.name != "tickets":
        raise ValueError(f"{folder} is a run of task={cfg.task.name}: give one of task=tickets")
    zoo = build_zoo(cfg.zoo)
    task = build_task(cfg.task, zoo)
    task.model = build_model(cfg.model, spec=zoo.spec, out_dim=task.out_dim)
    task.configure_model()
    task.load_state_dict(read_checkpoint(folder / "checkpoints" / "best.ckpt")["state_dict"])
    task.cut = json.loads((folder / "summary.json").read_text())["cut"]
    zoo.prepare_data()
    zoo.setup("test")
    return task.eval(), zoo


def measure(task: Any, zoo: Any, sparsities: list[float], count: int) -> list[dict[str, Any]]:
    """A row for each source and sparsity: accuracies of the first ``count`` held-out networks."""
    batches = list(zoo.test_dataloader())
    index = torch.cat([batch.index for batch in batches])[:count]
    scores = torch.cat([task.predict_scores(batch.features, batch.index) for batch in batches])[:count]
    rows = []
    for sparsity in tqdm(sparsities, desc="sparsity"):
        masks = {
            "model": task.cut_scores(zoo.spec, scores, index, sparsity=sparsity),
            **zoo.known_masks(index, sparsity),
        }
        for source, mask in masks.items():
            rows.append({"source": source, "sparsity": sparsity, **spread(zoo.mask_accuracy(index, mask))})
        rows.append({"source": "dense", "sparsity": sparsity, **spread(zoo.known_accuracy()["dense"][:count])})
    return rows


def spread(values: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation over initialisations."""
    return {"acc": float(values.mean()), "acc_std": float(values.std(ddof=len(values) > 1)), "networks": len(values)}


def main(arguments: list[str]) -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a finished run")
    parser.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    parser.add_argument("--networks", type=int, default=16, help="held-out initialisations, at most")
    options = parser.parse_args(arguments)
    task, zoo = load_run(options.folder)
    rows = measure(task, zoo, list(options.sparsities), options.networks)
    (options.folder / "curve.json").write_text(json.dumps(rows, indent=1) + "\n")
    draw_curve(options.folder / "curve.png", rows, f"{zoo.source}, {zoo.spec}")
    print(f"{'source':<14} {'sparsity':>8} {'acc, %':>8} {'std':>6}")
    for row in rows:
        print(f"{row['source']:<14} {row['sparsity']:>8.3f} {100 * row['acc']:>8.2f} {100 * row['acc_std']:>6.2f}")
    print(f"wrote {options.folder / 'curve.json'} and curve.png")


if __name__ == "__main__":
    with errors.one_screen():
        main(sys.argv[1:])
