"""Checkpoints: plain, whole or not there."""

import os
import stat

import pytest
import torch
from cli_files import listing

from clip import loader
from clip.model import CLIP
from src.checkpoint import finished_checkpoint, save_tensors
from src.datasets.common import Task
from src.files import atomic_file

TINY = {"embed_dim": 8, "image_resolution": 16, "vision_layers": 1, "vision_width": 16, "vision_heads": 2,
        "vision_patch_size": 8, "context_length": 16, "vocab_size": 3, "transformer_width": 16, "transformer_heads": 2,
        "transformer_layers": 1, "vocabulary": [49406, 49407]}
TASK = Task("DTD", ("a", "b"), ["{c}"], {}, train_data="4 shots")


@pytest.mark.parametrize(("mode", "content"), [("wb", b"\0\1"), ("w", "line\nä\n")])
def test_a_whole_file(tmp_path, mode, content):
    with atomic_file(tmp_path / "new" / "file", mode) as file:
        file.write(content)
        assert not (tmp_path / "new" / "file").exists(), "it has its name only when it is whole"
    read = (tmp_path / "new" / "file").read_bytes()
    assert read == (content if mode == "wb" else content.encode())
    assert listing(tmp_path) == {"new", "new/file"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_writer_that_raises_leaves_what_was_there(tmp_path, error, before):
    path = tmp_path / "file"
    if before:
        path.write_text(before, encoding="utf-8")
    with pytest.raises(error), atomic_file(path, "w") as file:
        file.write("half")
        raise error
    assert listing(tmp_path) == ({"file"} if before else set())
    assert not before or path.read_text(encoding="utf-8") == before


def test_a_name_that_cannot_be_taken_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError), atomic_file(tmp_path / "file") as file:
        file.write(b"x")
    assert listing(tmp_path) == {"file"}


def test_others_may_read_it_as_the_umask_says(tmp_path):
    mask = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as file:
            file.write(b"x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def finished(model, start=None, **changes):
    arguments = {"dataset": "DTD", "source": "csv:DTD", "task": TASK, "metrics": {"DTD": {"top1": 1.0, "top5": 2.0}},
                 "iteration": 7, "carry": {}, "config": {"lr": {"": 1e-5}}, "name": None}
    return finished_checkpoint(model, start or {}, **(arguments | changes))


def test_saved_and_read(tmp_path):
    model = CLIP(**TINY)
    save_tensors(tmp_path / "DTD.pth", finished(model, name="mine"))
    plain = torch.load(tmp_path / "DTD.pth", weights_only=True)
    assert plain["history"] == [{"dataset": "DTD", "source": "csv:DTD", "classnames": ["a", "b"],
                                 "train_data": "4 shots",
                                 "metrics": {"DTD": {"top1": 1.0, "top5": 2.0}}}]
    assert plain["format"] == 1 and plain["architecture"] == TINY and plain["model"] == "mine"
    again = loader.build(loader.read_checkpoint(tmp_path / "DTD.pth"))
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_it_is_a_copy(tmp_path):
    model = CLIP(**TINY)
    checkpoint = finished(model)
    with torch.no_grad():
        model.text_projection.add_(1)
    assert not torch.equal(checkpoint["state_dict"]["text_projection"], model.text_projection)
    assert not checkpoint["state_dict"]["text_projection"].requires_grad


def test_what_earlier_tasks_left_goes_on():
    start = finished(CLIP(**TINY), carry={"Memory": {"a": 1}, "Other": {"b": 2}})
    start["heads"]["DTD"] = torch.ones(2)
    second = finished(CLIP(**TINY), start, dataset="MNIST", carry={"Memory": {"a": 3}})
    assert [task["dataset"] for task in second["history"]] == ["DTD", "MNIST"]
    assert second["carry"] == {"Memory": {"a": 3}, "Other": {"b": 2}}
    assert set(second["heads"]) == {"DTD"}
    assert len(start["history"]) == 1 and start["carry"]["Memory"] == {"a": 1}, "the start itself is not changed"
