"""The comparison of two revisions to the bit: what it sees, what it leaves out, which arguments it refuses."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tools import same_bits

ROWS = "iteration,top1,task\n3,50.0000,a\n6,75.0000,a\n"


def write(folder):
    """Write a small run folder with a file of each kind."""
    folder.mkdir()
    weights = {"weight": torch.tensor([1.0, -2.0, 0.0]), "count": torch.tensor(3)}
    torch.save({"state_dict": weights, "carry": {"classes": ["a", "b"], "optimizer": {0: {"step": 1.0}}}},
               folder / "a.pth")
    save_file(dict(weights), folder / "model.safetensors")
    (folder / "metrics_a.csv").write_text(ROWS)
    (folder / "run_a.json").write_text(json.dumps({"seconds": 1.5, "commit": "1", "scores": {"a": {"top1": 75.0}}}))
    (folder / "log_a.jsonl").write_text(json.dumps({"iteration": 1, "task": 0.25, "images_per_second": 3.0}) + "\n")
    (folder / "report.html").write_text("<th>a</th><td>1.5 s</td><td>60</td><td>615.9 MiB</td><td>377</td>\n")
    (folder / "curves.png").write_bytes(b"picture")
    return folder


@pytest.fixture
def sides(tmp_path):
    return write(tmp_path / "base"), write(tmp_path / "head")


def differences(sides):
    return same_bits.folder_differences(*sides)[0]


def change_tensor(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_equal_folders_are_counted(sides):
    assert same_bits.folder_differences(*sides) == ([], 7, 4)


def test_one_bit_of_a_tensor_is_found(sides):
    def change(content):
        weight = content["state_dict"]["weight"]
        weight[1] = torch.nextafter(weight[1], torch.tensor(0.0))
    change_tensor(sides[1] / "a.pth", change)
    assert differences(sides) == ["a.pth: state_dict/weight: 1 of 3 values differ, by 1.19e-07 at most"]


def test_the_sign_of_a_zero_is_a_bit(sides):
    change_tensor(sides[1] / "a.pth", lambda content: content["state_dict"]["weight"][2].neg_())
    assert differences(sides) == ["a.pth: state_dict/weight: 1 of 3 values differ, by 0 at most"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_tensors_are_compared_by_bits(dtype):
    nan, zero = torch.tensor([float("nan")], dtype=dtype), torch.zeros(1, dtype=dtype)
    assert same_bits.tensor_difference(nan, nan.clone()) is None
    assert same_bits.tensor_difference(nan, zero) == "1 of 1 values differ, by 0 at most"
    assert same_bits.tensor_difference(zero, zero.reshape(1, 1)) is not None


def test_plain_values_are_compared_by_bits_and_type():
    nan = float("nan")
    assert same_bits.value_difference(nan, nan) is None
    assert same_bits.value_difference(0.0, -0.0) == "0.0 became -0.0, by 0"
    assert same_bits.value_difference(1, True) == "1 became True"
    assert same_bits.value_difference(1, 1.0) == "1 became 1.0"
    assert same_bits.value_difference("a", "b") == "'a' became 'b'"


def test_a_nested_value_of_the_carry_is_found(sides):
    change_tensor(sides[1] / "a.pth", lambda content: content["carry"]["optimizer"][0].update(step=2.0))
    assert differences(sides) == ["a.pth: carry/optimizer/0/step: 1.0 became 2.0, by 1"]


def test_a_cell_of_a_csv_is_found(sides):
    (sides[1] / "metrics_a.csv").write_text(ROWS.replace("75.0000", "75.0001"))
    assert differences(sides) == ["metrics_a.csv: row/1/top1: '75.0000' became '75.0001', by 0.0001"]


def test_a_file_on_one_side_is_a_difference(sides):
    (sides[0] / "curves.png").unlink()
    (sides[1] / "a.pth").unlink()
    assert differences(sides) == ["a.pth: only in BASE", "curves.png: only in HEAD"]


def test_a_key_on_one_side_is_a_difference(sides):
    (sides[1] / "log_a.jsonl").write_text(json.dumps({"iteration": 1, "l2": 0.25}) + "\n")
    assert differences(sides) == ["log_a.jsonl: 0/task: only in BASE", "log_a.jsonl: 0/l2: only in HEAD"]


def test_an_empty_dict_is_no_missing_one(sides):
    change_tensor(sides[1] / "a.pth", lambda content: content["carry"].update(more={}))
    assert differences(sides) == ["a.pth: carry/more/: only in HEAD"]


def test_times_and_commits_are_left_out(sides):
    content = {"seconds": 9.5, "commit": None, "peak_memory_bytes": 7, "scores": {"a": {"top1": 75.0}}}
    (sides[1] / "run_a.json").write_text(json.dumps(content))
    (sides[1] / "log_a.jsonl").write_text(json.dumps({"iteration": 1, "task": 0.25, "images_per_second": 9.0}) + "\n")
    (sides[1] / "report.html").write_text("<th>a</th><td>–</td><td></td><td>1.20 GiB</td><td>377</td>\n")
    assert differences(sides) == []


def test_only_the_files_of_the_table_leave_them_out(sides):
    change_tensor(sides[0] / "a.pth", lambda content: content.update(seconds=1.0))
    assert differences(sides) == ["a.pth: seconds: only in BASE"]
    assert all(row.reason for row in same_bits.IGNORED)


def test_other_files_are_compared_by_bytes(sides):
    (sides[1] / "curves.png").write_bytes(b"other")
    assert differences(sides) == ["curves.png: content: 7 bytes became 5 others"]


def test_a_long_line_is_shown_where_it_differs(sides):
    (sides[0] / "summary.md").write_text(f"{'x' * 200} 1 {'y' * 200}")
    (sides[1] / "summary.md").write_text(f"{'x' * 200} 2 {'y' * 200}")
    [line] = differences(sides)
    assert " 1 y" in line and " 2 y" in line and len(line) < 200


def test_many_differences_of_a_file_are_summed_up(sides):
    (sides[1] / "metrics_a.csv").write_text("iteration,top1,task\n" + "9,9,b\n9,9,b\n")
    lines = differences(sides)
    assert len(lines) == same_bits.SHOWN + 1 and lines[-1] == "metrics_a.csv: and 2 more"


@pytest.mark.parametrize("words", [[], ["HEAD"], ["HEAD", "HEAD", "HEAD"], ["HEAD", "--fast", "HEAD"]])
def test_wrong_arguments_end_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        same_bits.main(words)
    assert ended.value.code == 2 and "usage:" in capsys.readouterr().err


def test_an_unknown_revision_ends_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(same_bits, "set_up", lambda: None)
    assert same_bits.main(["no-such-revision", str(tmp_path)]) == 2
    message = "error: no-such-revision is neither a git revision nor the folder of a checkout\n"
    assert capsys.readouterr().err == message


def test_a_folder_is_copied_without_what_git_ignores(tmp_path):
    """A folder that git does not know loses its runs and caches."""
    source = tmp_path / "source"
    for name in ("src/main.py", "ckpt/run/a.pth", "src/__pycache__/main.pyc"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    same_bits.copy(str(source), tmp_path / "copied")
    assert same_bits.files_below(tmp_path / "copied") == {"src/main.py"}


def test_the_commands_need_no_names_of_the_source():
    """Steps name the program, documented flags and files of runs, which stay where they are."""
    steps = [step for steps in same_bits.COMMANDS.values() for step in steps]
    assert len(same_bits.COMMANDS) == 12
    assert all(step.startswith(("-m src.main", "-m torch.distributed.run", "convert_grad")) for step in steps)
