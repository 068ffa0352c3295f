"""Train and test one model on one task: `python run.py task=inr_cls model=nft`; `--help` lists the choices."""

import sys

import hydra
from omegaconf import DictConfig

from nfbench.config import errors, register
from nfbench.config.job import current_job, flags_first, validation_metric

register()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    with errors.in_job(job := current_job()):
        from nfbench import train  # here, so that --help and tab completion import no torch

        return validation_metric(train.run(cfg, job))  # what a tuning sweep reads


if __name__ == "__main__":
    sys.argv[1:] = flags_first(sys.argv[1:])
    with errors.one_screen():
        main()
