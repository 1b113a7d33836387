import json
import os
from pathlib import Path

import numpy as np
import pytest

from ecgmoe import paper, tasks

SHARED = Path(os.environ.get("ECGMOE_SHARED", "../shared"))

#: What the audit must come to; a change of tables, rules or claims shows here.
VERDICTS = {
    "rr_reduction": "holds",
    "rhythm_gain": "holds",
    "state_of_the_art": "overstated",
    "ablation": "overstated",
    "rr_53": "contradicted",
    "same_model": "not derivable",
    "faster": "not derivable",
    "memory": "not derivable",
    "real_time": "contradicted",
    "lora": "overstated",
    "costs": "not shown",
    "balance": "not shown",
    "robustness": "not shown",
    "heatmaps": "not shown",
    "periodicity": "overstated",
    "complementary": "not shown",
    "multitask": "not shown",
    "public_tasks": "overstated",
    "largest": "overstated",
    "backbone_strengths": "not derivable",
    "baselines_quoted": "overstated",
}


@pytest.fixture
def verdicts():
    return {verdict.id: verdict for verdict in paper.audit()}


def test_verdicts(verdicts):
    assert {name: verdict.verdict for name, verdict in verdicts.items()} == VERDICTS
    assert all(v.claim and v.where and v.fair and v.recomputed for v in verdicts.values())


def test_readme_and_changelog_tell_what_the_audit_finds(verdicts):
    root = Path(__file__).parents[1]
    readme, changes = (" ".join((root / name).read_text("utf-8").split()) for name in ("README.md", "CHANGELOG.md"))
    assert f"The audit holds {len(verdicts)} claims" in changes
    reduction = verdicts["rr_reduction"].numbers["reduction_percent"]
    rival = paper.TABLE_2[paper.best(paper.TABLE_2, "rr")]["rr"].mean
    apart = 100 * paper.relative_reduction(paper.MIMIC_CONSTANT.mae, rival)
    assert f"The headline, {reduction:.0f} % lower RR error, is computed correctly" in readme
    assert 4.5 < apart < 5.5 and "within about 5 % of predicting the same RR interval for everyone" in readme
    speed = verdicts["real_time"].numbers["10 s"]
    assert f"{paper.SAMPLES_PER_SECOND} samples a second is {speed:.0f} times real time" in readme
    memory = f"{100 * paper.MEMORY_REDUCTION:.0f} % memory saving cannot be derived"
    assert memory in readme and verdicts["memory"].verdict == verdicts["faster"].verdict == "not derivable"
    counts = verdicts["state_of_the_art"].numbers
    assert [counts[kind] for kind in ("win", "tie", "noise", "loss")] == [3, 1, 1, 0]
    assert "The best figures on all five tasks are three wins, one tie, and one difference within noise" in readme
    lost = [one.task for one in paper.comparisons(paper.TABLE_3) if one.outcome == "loss"]
    assert lost == ["rhythm"] and "another network has the better mean on the rhythm task" in readme


def test_the_claims_of_the_abstract_and_of_every_section_are_there(verdicts):
    """What each part of the paper claims, read beside its text; a claim names the parts that make it."""
    made = {
        "abstract": {"periodicity", "lora", "public_tasks", "state_of_the_art", "faster"},
        "introduction": {"periodicity", "complementary", "costs", "lora", "state_of_the_art", "faster", "robustness"},
        "section 2": {"periodicity"},
        "section 3": {"complementary", "lora"},
        "section 4.1": {"public_tasks", "largest"},
        "RQ1": {"complementary", "backbone_strengths"},
        "RQ2": {"state_of_the_art", "rr_reduction", "rhythm_gain"},
        "RQ3": {"memory", "real_time", "balance"},
        "RQ4": {"ablation", "rr_53", "heatmaps", "multitask"},
    }
    told = {part: {name for name, v in verdicts.items() if part in v.where.split(", ")} for part in made}
    assert told == made


@pytest.mark.parametrize(
    ("claim", "number", "value"),
    [
        ("rr_reduction", "reduction_percent", 46.03),
        ("rhythm_gain", "relative_percent", 10.61),
        ("rhythm_gain", "points", 7.0),
        ("rr_53", "reduction_MoE", 26.2),
        ("rr_53", "reduction_Time MoE", 2.9),
        ("rr_53", "reduction_Self-Attn", 35.0),
        ("rr_53", "reduction_Cross-Attn", 11.9),
        ("rr_53", "self_attn_increase", 53.8),
        ("state_of_the_art", "p_age", 0.25),
        ("ablation", "p_rr", 0.57),
        ("ablation", "p_age", 0.56),
        ("real_time", "10 s", 147.0),
        ("real_time", "5 s", 73.5),
        ("memory", "implied_baseline_gb", 12.6),
    ],
)
def test_numbers(verdicts, claim, number, value):
    decimals = len(str(value).partition(".")[2])
    assert verdicts[claim].numbers[number] == pytest.approx(value, abs=0.51 * 10**-decimals)


def test_rulings_follow_the_tables(monkeypatch):
    """With other figures in the table the same checks come to other rulings."""

    def with_cell(table, model, task, cell):
        return {**table, model: {**table[model], task: cell}}

    better = dict(paper.TABLE_2)
    for task in ("age", "sex"):
        better = with_cell(better, "ECG-MoE", task, paper.Cell(5.0 if task == "age" else 0.95, 0.01))
    monkeypatch.setattr(paper, "TABLE_2", better)
    now = {v.id: v.verdict for v in paper.audit()}
    assert now["state_of_the_art"] == "holds"
    monkeypatch.setattr(paper, "TABLE_2", with_cell(better, "ECG-MoE", "rr", paper.Cell(200.0, 1.0)))
    now = {v.id: v.verdict for v in paper.audit()}
    assert (now["state_of_the_art"], now["rr_reduction"]) == ("contradicted", "contradicted")
    monkeypatch.setattr(paper, "TABLE_3", with_cell(paper.TABLE_3, "Self-Attn", "rr", paper.Cell(76.37 / 0.465, 1.0)))
    monkeypatch.setattr(paper, "SAMPLES_PER_SECOND", 0.3)
    now = {v.id: v.verdict for v in paper.audit()}
    assert now["real_time"] == "holds"


def test_welch_is_the_textbook_test():
    # t and degrees of freedom by hand for 12.83 ± 0.42 and 13.41 ± 0.45, n = 3, sample SD.
    from scipy.stats import t as student

    a, b = paper.Cell(12.83, 0.42), paper.Cell(13.41, 0.45)
    va, vb = 0.42**2 / 3, 0.45**2 / 3
    t = 0.58 / np.sqrt(va + vb)
    df = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    assert paper.welch(a, b, ddof=1) == pytest.approx(2 * student.sf(t, df), rel=1e-9)
    assert paper.welch(a, b) > paper.welch(a, b, ddof=1)
    assert 0 < paper.welch(paper.Cell(0.57, 0.0), paper.Cell(0.50, 0.0)) < 0.001
    with pytest.raises(ValueError, match="spread"):
        paper.welch(a, paper.Cell(0.69, None))


def test_outcomes():
    a = paper.Cell(10.0, 0.1)
    assert paper.outcome(a, paper.Cell(10.0, 3.0), "rr") == "tie"
    assert paper.outcome(a, paper.Cell(12.0, 0.1), "rr") == "win"
    assert paper.outcome(a, paper.Cell(12.0, 0.1), "rhythm") == "loss"
    assert paper.outcome(a, paper.Cell(10.05, 3.0), "rr") == "noise"


def test_cells_print_as_in_the_paper():
    assert str(paper.TABLE_1["TimesNet"]["rr"]) == "817.0 ± 2.5"
    assert str(paper.TABLE_2["ECG-MoE"]["rr"]) == "76.37 ± 4.7"
    assert str(paper.TABLE_2["TEMPO"]["potassium"]) == "0.50 ± 0.00"
    assert str(paper.TABLE_2["TimesNet"]["age"]) == "24.89 ± 0.07"
    assert str(paper.TABLE_3["ECG-MoE"]["sex"]) == "0.69"


def test_plain_mixture_is_behind_where_the_fairness_note_says():
    ours, plain = paper.TABLE_2["ECG-MoE"], paper.TABLE_3["MoE"]
    won = [task for task in paper.TASKS if paper.outcome(ours[task], plain[task], task) == "win"]
    assert won == ["rr", "age", "rhythm"]


def test_trivial_predictors():
    y = np.r_[np.zeros(97), np.ones(3)]
    f1_negative = 2 * 97 / (97 + 100)
    assert paper.majority_macro_f1(y.mean()) == pytest.approx(f1_negative / 2)
    assert paper.majority_macro_f1(0.03) == pytest.approx(0.49, abs=0.005)
    assert paper.majority_macro_f1(0.5) == pytest.approx(1 / 3)
    x = np.random.default_rng(0).normal(800, 180, 200_000)
    assert paper.implied_sd(np.abs(x - x.mean()).mean()) == pytest.approx(180, rel=0.01)


def test_task_names_are_the_library_s():
    assert paper.TASKS == tuple(tasks.TASKS)
    assert {name for name, task in tasks.TASKS.items() if not task.higher_is_better} == paper.LOWER_IS_BETTER
    for table in (paper.TABLE_1, paper.TABLE_2, paper.TABLE_3):
        assert all(tuple(row) == paper.TASKS for row in table.values())


def test_tables_against_the_reference():
    path = SHARED / "paper" / "tables.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    reference = json.loads(path.read_text())
    for key, table in (
        ("table1_zero_shot", paper.TABLE_1),
        ("table2_fine_tuned", paper.TABLE_2),
        ("table3_ablation", paper.TABLE_3),
    ):
        named = {
            model: {task.replace("arrhythmia", "rhythm"): tuple(cell) for task, cell in row.items()}
            for model, row in reference[key].items()
        }
        assert named == {model: {task: tuple(cell) for task, cell in row.items()} for model, row in table.items()}


def test_constant_rr(tmp_path):
    path = tmp_path / "machine_measurements.csv"
    path.write_text("subject_id,study_id,rr_interval\n1,1,700\n1,2,5000\n2,3,900\n3,4,29999\n4,5,0\n5,6,800\n")
    found = paper.constant_rr(path, n_boot=50)
    assert (found.n_subjects, found.n_dropped, found.mean) == (3, 2, 800.0)
    assert found.mae == pytest.approx(200 / 3)
    assert found.mean_interval[0] <= 800 <= found.mean_interval[1]
    assert found == paper.constant_rr(path, n_boot=50)


def test_constant_rr_refuses_other_files(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="machine_measurements"):
        paper.constant_rr(path)
    path.write_text("subject_id,rr_interval\n1,29999\n")
    with pytest.raises(ValueError, match="no valid"):
        paper.constant_rr(path)
    with pytest.raises(FileNotFoundError):
        paper.constant_rr(tmp_path / "absent.csv")


def test_constant_rr_on_mimic(tmp_path):
    import tarfile

    archive = SHARED / "data" / "small.tar.xz"
    if not archive.exists():
        pytest.skip(f"{archive} is not there")
    with tarfile.open(archive) as tar:
        member = next(m for m in tar if m.name.endswith("machine_measurements_subset.csv"))
        tar.extract(member, tmp_path, filter="data")
    found = paper.constant_rr(tmp_path / member.name, seed=0)
    assert found.mae_interval == pytest.approx(paper.MIMIC_CONSTANT.mae_interval, abs=0.01)
    assert (found.n_subjects, found.n_dropped) == (4108, 8)
    assert found.mean == pytest.approx(paper.MIMIC_CONSTANT.mean, abs=0.01)
    assert found.mae == pytest.approx(paper.MIMIC_CONSTANT.mae, abs=0.01)
    # What the chapter says: Table 1's row is the mean itself, and two fine-tuned backbones are at the constant's error.
    low, high = found.mae_interval
    assert all(abs(row["rr"].mean - found.mean) < 1 for row in paper.TABLE_1.values())
    assert [model for model, row in paper.TABLE_2.items() if low <= row["rr"].mean <= high] == ["MOMENT", "ECG-FM"]


def test_figures_show_the_tables():
    from ecgmoe import plots

    zero = plots.printed_zero_shot(paper.TABLE_1, 817.0)
    left, right = zero.axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(paper.TABLE_1)
    assert left.lines[0].get_xdata()[0] == 817.0
    assert right.lines[0].get_ydata()[0] == pytest.approx(paper.majority_macro_f1(0.005))
    bars = plots.printed_against_constants(paper.TABLE_2, {"rr": [(149.0, "constant")]})
    widths = [patch.get_width() for patch in bars.axes[0].patches]
    assert widths == [row["rr"].mean for row in paper.TABLE_2.values()]
    assert [ax.get_legend() is not None for ax in bars.axes] == [True, False, False, False, False, True]
    percent = plots.claimed_and_recomputed([("a", 46.0, {"x": 46.03}), ("b", 53.5, {"y": 2.9, "z": 35.0})], "%")
    assert {text.get_text() for text in percent.axes[0].texts} == {"x 46.0", "y 2.9", "z 35.0"}
