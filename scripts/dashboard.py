"""Makes the dashboard of a W&B project: a workspace with a section for each task.

python scripts/dashboard.py --entity my_team             # saves it and prints its address
python scripts/dashboard.py --dry-run --out board.json   # what would be saved, as JSON; needs no account

Each section has the task's metric as bars, its validation metric as curves, pictures, and a table of test items. Bars
and curves are means over the seeds of a cell (model, zoo and settings), with their standard deviation. `--group-by
model` takes all runs of a model together: use it where a `--filter` leaves one zoo, such as "Config('dataset') =
'mnist'".
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from omegaconf import OmegaConf

from nfbench.wandb_runs import CELL, MEDIA, TABLE, has_key, panel_key

TASKS = Path(__file__).resolve().parents[1] / "conf" / "task"
SHOWN = "Metric('JobType') = 'train' and Config('size') in ['cpu', 'full']"  # no trials of a search, no smoke tests
COLUMNS = ("config:task", "config:model", "config:zoo", "config:dataset", "config:seed", "config:size", "config:params")
MOST_BARS = 50


def read_tasks(folder: Path = TASKS) -> list[dict[str, Any]]:
    """The tasks, as their files in conf/task say them."""
    return [dict(OmegaConf.load(file)) for file in sorted(folder.glob("*.yaml"))]


def section(task: Mapping[str, Any], group_by: str) -> ws.Section:
    """The panels of one task. Names have the task in them: a panel shows every run that has the name."""
    name, metric, monitor = (str(task[each]) for each in ("name", "metric", "monitor"))
    better = "higher" if task["mode"] == "max" else "lower"
    group = wr.Config(group_by)
    spread = {"groupby": group, "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    half, whole = {"w": 12, "h": 8}, {"w": 24, "h": 10}
    bars = wr.BarPlot(
        title=f"{name}: {metric} ({better} is better), mean and standard deviation over seeds",
        metrics=[panel_key(name, metric)],
        max_bars_to_show=MOST_BARS,
        layout=wr.Layout(x=0, y=0, **half),
        **spread,
    )
    curves = wr.LinePlot(
        title=f"{name}: {monitor} by epoch",
        x="epoch",
        y=[panel_key(name, monitor)],
        title_x="epoch",
        layout=wr.Layout(x=12, y=0, **half),
        **spread,
    )
    media = wr.MediaBrowser(
        title=f"{name}: pictures", media_keys=[panel_key(name, each) for each in MEDIA], layout=wr.Layout(y=8, **whole)
    )
    table = wr.WeavePanelSummaryTable(table_name=panel_key(name, TABLE), layout=wr.Layout(y=18, **whole))
    layout = ws.SectionLayoutSettings(columns=2, rows=2)
    return ws.Section(name=name, panels=[bars, curves, media, table], is_open=True, layout_settings=layout)


def workspace(entity: str, project: str, name: str, group_by: str = CELL, shown: str = SHOWN) -> ws.Workspace:
    """The whole workspace.

    Raises:
        ValueError: a filter that cannot be read.
    """
    try:
        runs = ws.RunsetSettings(
            filters=shown,
            groupby=[ws.Config("task"), ws.Config(group_by)],
            pinned_columns=["run:displayName", *COLUMNS],
        )
        board = ws.Workspace(
            entity=entity,
            project=project,
            name=name,
            sections=[section(task, group_by) for task in read_tasks()],
            settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=MOST_BARS),
            runset_settings=runs,
        )
        to_json(board)  # the filter is read here
    except (ValueError, SyntaxError) as error:
        raise ValueError(
            f"--filter {shown!r} cannot be read ({error}): write it as \"Config('dataset') = 'mnist'\""
        ) from None
    return board


def to_json(board: ws.Workspace) -> str:
    """What `board.save()` sends, by the library's own model of it."""
    return board._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=1)


def main(arguments: list[str] | None = None) -> str:
    """Does it and returns what there is to say.

    Raises:
        ValueError: no account, a filter that cannot be read.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entity", help="user or team; None: your own")
    parser.add_argument("--project", default="nfbench", help="as logger.project (nfbench)")
    parser.add_argument("--name", default="nfbench by task", help="of the workspace")
    parser.add_argument("--group-by", default=CELL, help=f"key of the runs' config ({CELL})")
    parser.add_argument("--filter", default=SHOWN, help=f"which runs ({SHOWN})")
    parser.add_argument("--dry-run", action="store_true", help="write the workspace as JSON, save nothing")
    parser.add_argument("--out", type=Path, help="file for that JSON; None: it is printed")
    args = parser.parse_args(arguments)
    if not args.dry_run and not has_key():
        raise ValueError(
            "saving a workspace needs a Weights & Biases account: run `wandb login` once, or set WANDB_API_KEY. "
            "--dry-run shows it without one"
        )
    entity = args.entity or ("" if args.dry_run else own_entity())
    board = workspace(entity, args.project, args.name, args.group_by, args.filter)
    if not args.dry_run:
        return str(board.save().url)
    text = to_json(board)
    if args.out is None:
        return text
    args.out.write_text(text + "\n")
    return f"{len(board.sections)} sections in {args.out}"


def own_entity() -> str:
    """The entity of the account that is logged in."""
    import wandb

    return str(wandb.Api().default_entity)


if __name__ == "__main__":
    try:
        print(main())
    except ValueError as error:
        sys.exit(f"error: {error}")
