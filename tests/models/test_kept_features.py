"""A teacher's features of all reference images, kept in a file: encoded once, with the same numbers."""

from dataclasses import replace

import numpy
import pytest
import torch
from test_ref_features import REFERENCE, bits, encoded, holed, same  # noqa: F401 (a fixture)

from src.datasets.cache import ImageCache
from src.datasets.transforms import EvalTransform
from src.errors import UserError
from src.machine.device import Device
from src.machine.distributed import World
from src.machine.files import reading_only
from src.models.finetune import ZSCL, LwF, TeacherFeatures
from src.models.kept_features import FILL, _encoded
from src.models.modeling import image_features, in_eval_mode
from src.models.training import train

KEPT = {"keep_ref_features": True}


@pytest.fixture
def run(make_model, make_state, open_task, tmp_path):
    """-> run(method, start=0, teacher=5, missing=(), content="1", **settings): (state, method, losses), of a run whose
    reference images are called ``content``."""
    def run(method, start=0, teacher=5, missing=(), content="1", from_code=False, precision=None, **settings):
        kind = torch.float32 if precision else torch.float64
        state, losses = make_state(make_model("vit", dtype=kind), **{"iterations": 5} | settings), []
        reference = open_task("tiny-reference")
        split = replace(holed(reference.split("train"), missing), content=content and (lambda: content))
        state.open_task = lambda name: replace(reference, splits={"train": split}, in_memory=False, from_code=from_code)
        frozen = make_model("vit", seed=teacher, dtype=kind).eval().requires_grad_(False)
        state.open_zeroshot = lambda path=None: frozen
        state.images, state.iteration = ImageCache(tmp_path), start
        state.device = Device("cpu", precision) if precision else state.device
        train(state, [method], lambda state, found: losses.append(
            {name: float(value) for name, value in found.items()}))
        return state, method, losses
    return run


def files(root):
    return sorted(path.name for path in (root / "cache").glob("teacher-*"))


def test_all_tasks_and_runs_share_one_pass(run, encoded, tmp_path, capsys):  # noqa: F811
    """Two tasks of a run and another run: the first one encodes every image, and the others none."""
    passes = [run(ZSCL("tiny-reference", **KEPT))[1] for _ in range(3)]
    assert [sum(encoded.get(method.teacher, [])) for method in passes] == [REFERENCE, 0, 0] and REFERENCE < FILL
    assert len(files(tmp_path)) == 1
    tables = [method.teacher_features.table for method in passes]
    assert torch.equal(tables[0], tables[1]) and torch.equal(tables[0], tables[2])
    assert capsys.readouterr().out.count("the teacher's features of 11 reference images are kept in") == 1


def test_losses_are_those_without(run):
    (plain, _, losses), (kept, _, others) = (run(ZSCL("tiny-reference", **options)) for options in ({}, KEPT))
    for one, other in zip(losses, others, strict=True):
        assert other == pytest.approx(one, rel=1e-9, abs=1e-12) and one.keys() == other.keys()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(kept.model.state_dict()[name], value, rtol=0, atol=1e-6)


def test_the_run_that_fills_and_one_that_reads_and_one_that_resumes_have_the_same_bits(run, encoded):  # noqa: F811
    first, again = (run(ZSCL("tiny-reference", **KEPT)) for _ in range(2))
    assert same(bits(first[0]), bits(again[0])) and first[2] == again[2]
    late = run(ZSCL("tiny-reference", **KEPT), start=3)
    assert torch.equal(late[1].teacher_features.table, first[1].teacher_features.table)
    assert late[1].teacher not in encoded, "no visit is repeated"


@pytest.mark.parametrize("change", [{"teacher": 6}, {"content": "2"}, {"precision": "bf16"}], ids=str)
def test_another_teacher_other_images_and_another_precision_have_files_of_their_own(change, run, tmp_path,
                                                                                     make_model, make_state):
    run(ZSCL("tiny-reference", **KEPT), precision="fp32")
    run(ZSCL("tiny-reference", **KEPT), **{"precision": "fp32"} | change)
    assert len(files(tmp_path)) == 2


def test_images_that_cannot_be_decoded_have_none(run, tmp_path):
    _, method, _ = run(ZSCL("tiny-reference", **KEPT), missing={2, 7})
    known = method.teacher_features.known
    assert known.nonzero().flatten().tolist() == [index for index in range(REFERENCE) if index not in (2, 7)]
    stored = numpy.load(tmp_path / "cache" / files(tmp_path)[0])
    assert numpy.isnan(stored[[2, 7]]).all() and not numpy.isnan(stored[[0, 1, 3]]).any()


def test_a_damaged_file_is_told_and_made_again(run, tmp_path, encoded, capsys):  # noqa: F811
    _, first, _ = run(ZSCL("tiny-reference", **KEPT))
    path = tmp_path / "cache" / files(tmp_path)[0]
    whole = path.read_bytes()
    for content in (whole[:-9], b"no array"):
        path.write_bytes(content)
        _, method, _ = run(ZSCL("tiny-reference", **KEPT))
        assert sum(encoded[method.teacher]) == REFERENCE and path.read_bytes() == whole
        assert f"warning: {path} is damaged" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_a_note(run, tmp_path, capsys):
    (tmp_path / "cache").write_text("a file", encoding="utf-8")
    _, _, losses = run(ZSCL("tiny-reference", **KEPT))
    assert "note: the teacher's features are not kept" in capsys.readouterr().out and len(losses) == 5


def test_a_dry_run_encodes_what_its_steps_need(run, encoded, tmp_path):  # noqa: F811
    with reading_only():
        _, method, losses = run(ZSCL("tiny-reference", **KEPT), iterations=1)
    assert sum(encoded[method.teacher]) == 4 and len(losses) == 1 and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("options", [{"content": None}, {"from_code": True}], ids=str)
def test_images_that_nothing_tells_changes_of_are_refused(options, run):
    with pytest.raises(UserError, match="--keep-ref-features: nothing tells whether the reference images"):
        run(ZSCL("tiny-reference", **KEPT), **options)


@torch.no_grad()
def test_processes_share_the_images(make_model, make_state, open_task):
    """Each has rows of its own; together they are all, and what one process has."""
    teacher, split = make_model("vit"), open_task("tiny-reference").split("train")
    tables = []
    for world in (World(), World(0, 3), World(1, 3), World(2, 3)):
        state = make_state(make_model("vit"))
        state.world = world
        world.sum, world.reason_to_stop = (lambda tensor: tensor), (lambda: None)
        tables.append(_encoded(state, teacher, split, teacher.logit_scale.new_zeros(len(split), 8)))
    whole, *shares = tables
    assert sum(int((~share[:, 0].isnan()).sum()) for share in shares) == REFERENCE
    torch.testing.assert_close(sum(share.nan_to_num() for share in shares), whole, rtol=0, atol=1e-12)
    with in_eval_mode(teacher):
        images = torch.stack([state.device.images(EvalTransform(16)(split.image(index))) for index in range(REFERENCE)])
    torch.testing.assert_close(whole, image_features(teacher, images), rtol=0, atol=1e-12)


def test_a_table_of_all_is_looked_up(make_model):
    features = TeacherFeatures(make_model("vit"), table=torch.tensor([[1.0, 2.0], [float("nan")] * 2]))
    assert features.known.tolist() == [True, False]


def test_a_method_whose_teacher_changes_has_no_such_flag(make_model):
    from src.models import METHODS
    assert "keep_ref_features" in METHODS["ZSCL"].uses
    assert not any("keep_ref_features" in METHODS[name].uses for name in ("lwf", "icarl"))
    assert not LwF().keep_ref_features
