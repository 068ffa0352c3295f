"""What counts as a result, and what is said about files that are none."""

import importlib.util
import json
from pathlib import Path

import pytest
from run_folders import summary, write_run, write_unfinished

from nfbench.report.results import FIELDS, WITHOUT, collect, config_key, lacking, typed
from nfbench.report.tables import make_tables

ROOT = Path(__file__).resolve().parents[3]
COMMITTED = sorted((ROOT / "results").rglob("*.json"))
# measures: of zoos, not of training; identity, own_fit: bounds that nothing is trained for (scripts/edit_bounds.py).
NO_TRAINING = ("measures/", "inr_edit/identity-", "inr_edit/own_fit-")


def test_every_committed_result_of_training_says_all_fields():
    trained = [p for p in COMMITTED if not str(p.relative_to(ROOT / "results")).startswith(NO_TRAINING)]
    assert len(trained) >= 46
    for path in trained:
        assert lacking(json.loads(path.read_text())) == [], path


def test_every_committed_result_is_collected():
    found = collect([ROOT / "results"])
    assert found.problems == []
    assert len(found.runs) + len(found.references) + len(found.measures) == len(COMMITTED)


def test_exceptions_are_of_known_fields_and_say_why():
    for task, without in WITHOUT.items():
        assert set(without) < set(FIELDS), task
        assert all(len(reason) > 10 for reason in without.values())


def test_a_field_that_a_task_has_is_not_excused_for_it():
    assert lacking(summary()) == []
    for name in FIELDS:
        without = {key: value for key, value in summary().items() if key != name}
        assert name in lacking(without)
    assert lacking(summary(metrics={"test/loss": 1.0})) == ["metrics[test/acc]"]


def test_broken_files_are_named_and_the_others_read(tmp_path):
    write_run(tmp_path / "a" / "good")
    write_run(tmp_path / "a" / "half", seed=1)
    (tmp_path / "a" / "half" / "summary.json").write_text('{"task": ')
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text('{"name": "something else"}')
    write_run(tmp_path / "nan", seed=2, value=float("nan"))
    thin = summary(seed=3)
    del thin["commit"], thin["machine"]
    (tmp_path / "thin.json").write_text(json.dumps(thin))
    found = collect([tmp_path])
    assert sorted(run.summary["seed"] for run in found.runs) == [0, 3]
    told = "\n".join(found.problems)
    for name in ("half/summary.json: unreadable", "list.json: holds no result", "other.json: left out",
                 "nan/summary.json: left out, since test/acc is nan", "thin.json: lacks machine, commit"):  # fmt: skip
        assert name in told
    assert len(found.problems) == 5
    assert [(run.seed, run.config_hash) for run in found.unfinished] == [(2, summary()["config_hash"])]


def test_odd_files_are_named(tmp_path):
    bound = {"task": "inr_edit", "dataset": "mnist", "model": "own_fit", "metric": "test/mse", "measured": 5}
    (tmp_path / "bound.json").write_text(json.dumps({**bound, "metrics": {"test/mse": 0.5}}))
    (tmp_path / "metric.json").write_text(json.dumps(summary(metric="acc", metrics={"acc": 0.5})))
    about = {"settings": {"seed": 0}, "images": {"source": "x"}, "zoo": "z", "steps": "final", "access": "weights"}
    line = {"measure": "norm", "tau_accuracy": None}
    (tmp_path / "fine.json").write_text(json.dumps({"about": about, "table": [line]}))
    (tmp_path / "table.json").write_text(json.dumps({"about": about, "table": [{"measure": "norm"}]}))
    (tmp_path / "about.json").write_text(json.dumps({"about": {}, "table": []}))
    found = collect([tmp_path])
    told = "\n".join(found.problems)
    for text in ("bound.json: left out, since it lacks seed", "metric.json: left out, since its metric acc is not",
                 "table.json: left out, since it lacks some of what", "about.json: left out"):  # fmt: skip
        assert text in told
    assert len(found.problems) == 4
    (table,) = [table for table in make_tables(found)[0] if table.task == "measures"]
    assert [(row.label, row.mean) for row in table.rows] == [("norm", None)], "no order among equal values"


def test_a_missing_path_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*gone"):
        collect([tmp_path / "gone"])


def test_a_published_run_and_its_folder_are_one_run(tmp_path):
    folder = write_run(tmp_path / "outputs" / "nft-siren_digits-seed0-0123abcd", value=0.7)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text((folder / "summary.json").read_text())
    (run,) = collect([tmp_path / "results", tmp_path / "outputs", folder]).runs
    assert (run.path.name, run.folder) == ("x.json", folder)
    write_run(tmp_path / "again", value=0.71)
    found = collect([tmp_path])
    assert len(found.runs) == 1
    assert "says 0.7" in found.problems[0]


def test_set_aside_runs_are_left_out_and_sweeps_are_found(tmp_path):
    write_run(tmp_path / "multirun" / "1a2b" / "0-inr_cls-nft-siren_digits-seed0")
    write_run(tmp_path / "multirun" / "1a2b" / "1-inr_cls-nft-siren_digits-seed1", seed=1)
    write_run(tmp_path / "multirun" / "1a2b" / "1-inr_cls-nft-siren_digits-seed1.1", seed=1, value=0.1)
    lost = write_unfinished(tmp_path / "multirun" / "1a2b" / "2-inr_cls-nft-siren_digits-seed2", "model=nft", "seed=2")
    found = collect([tmp_path])
    assert [run.summary["seed"] for run in found.runs] == [0, 1]
    assert found.problems == []
    (unfinished,) = found.unfinished
    assert (unfinished.folder, unfinished.seed, unfinished.overrides) == (lost, 2, ("model=nft",))


def test_seeds_of_an_encoder_are_one_experiment_and_other_encoders_are_not():
    def run(seed, encoder, encoder_hash, **changes):
        config = {"task": {"lr": 0.1, "encoder": f"/x/{seed}", "encoder_hash": encoder_hash}, "zoo": {"seed": seed}}
        return summary(seed=seed, encoder=encoder, config={**config, **changes}, config_hash=encoder_hash[:8])

    first = run(0, "inr2array nft, seed 0, aaaaaaaa", "11111111")
    assert config_key(first) == config_key(run(1, "inr2array nft, seed 1, aaaaaaaa", "22222222"))
    assert config_key(first) != config_key(run(1, "inr2array nft, seed 1, bbbbbbbb", "22222222"))
    assert config_key(first) != config_key(run(0, first["encoder"], "11111111", model={"width": 3}))
    assert config_key(first) != config_key(run(1, first["encoder"], "11111111")), "of another seed than the run"
    younger = {"model": {"head_activation": "relu"}, "trainer": {"compile": False}}
    assert config_key(first) == config_key(run(1, "inr2array nft, seed 1, aaaaaaaa", "22222222", **younger))
    younger["model"]["head_activation"] = "gelu"
    assert config_key(first) != config_key(run(1, "inr2array nft, seed 1, aaaaaaaa", "22222222", **younger))


def test_neutral_overrides_do_not_count():
    command = (
        "python run.py -m model=nft seed=3 launcher=slurm hydra.run.dir=x +trainer.limit_train_batches=2 'a.b=[1, 2]'"
    )
    assert typed(command) == ("+trainer.limit_train_batches=2", "a.b=[1, 2]", "model=nft")


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("publish", ROOT / "scripts" / "publish.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_no_published_result_takes_the_place_of_another(tmp_path, script):
    results = tmp_path / "results"
    names = ["0-inr_cls-nft-siren_digits-seed0", "1-inr_cls-nft-siren_digits-seed0"]  # of a sweep: without hashes
    folders = [
        write_run(tmp_path / name, value=0.1 * n, config_hash=f"{n}0000000", zoo="siren_digits")
        for n, name in enumerate(names)
    ]
    published = [script.publish(folder, results) for folder in folders]
    assert [path.name for path in published] == [f"nft-siren_digits-seed0-{n}0000000.json" for n in range(2)]
    again = write_run(tmp_path / "again", value=0.5, config_hash="00000000", zoo="siren_digits")
    with pytest.raises(ValueError, match=r"0000.json is of the same config and seed and says .*0\.0.*--replace"):
        script.publish(again, results)
    assert json.loads(published[0].read_text())["metrics"]["test/acc"] == 0
    assert script.publish(again, results, replace=True) == published[0]
    assert json.loads(published[0].read_text())["metrics"]["test/acc"] == 0.5


@pytest.mark.parametrize("change", [{"task": "../../x"}, {"task": "/tmp/x"}, {"zoo": "a/b"}, {"model": "../x"},
                                    {"config_hash": "../../../aaaaaaaa"}])  # fmt: skip
def test_a_strange_summary_is_published_nowhere(tmp_path, script, change):
    folder = write_run(tmp_path / "deep" / "deeper" / "run")
    (folder / "summary.json").write_text(json.dumps(summary(**change)))
    before = set(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"is of task .* and would be named .*: tasks are inr_cls, "):
        script.publish(folder, tmp_path / "deep" / "results")
    assert set(tmp_path.rglob("*")) == before


def test_publish_refuses_a_summary_that_lacks_a_field(tmp_path, script):
    folder = write_run(tmp_path / "run")
    target = script.publish(folder, tmp_path / "results")
    assert json.loads(target.read_text()) == json.loads((folder / "summary.json").read_text())
    (folder / "metrics.csv").write_text("epoch,step,lr,val/acc\n0,5,0.1,0.25\n1,10,0.1,\n")
    assert json.loads(script.publish(folder, tmp_path / "results").read_text())["curves"] == {"val/acc": [0.25, None]}
    job = {"job_id": "3", "node": "somebodys", "restarts": 0}
    machine = {"threads": 2, "system": "Linux-6.1.0-somebodys-1-x86_64-with-glibc2.36"}
    (folder / "summary.json").write_text(json.dumps(summary(slurm=job, machine=machine)))
    published = json.loads(script.publish(folder, tmp_path / "results").read_text())
    assert published["slurm"] == {"job_id": "3", "restarts": 0}, "no names of machines"
    assert published["machine"] == {"threads": 2, "system": "Linux-6.1.0-x86_64-with-glibc2.36"}
    thin = summary()
    del thin["versions"]
    (folder / "summary.json").write_text(json.dumps(thin))
    with pytest.raises(ValueError, match=r"run/summary.json lacks versions.*rerun=true"):
        script.publish(folder, tmp_path / "results")
