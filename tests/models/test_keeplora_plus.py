"""KeepLoRA+: two tasks against plain torch, where heads start and where they act. Its runs are in test_keeplora.py."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_clip, tiny_task
from keeplora_reference import Reference
from test_keeplora import TIGHT, state_of

import clip
from src.errors import UserError
from src.models.classifiers import Classes, zeroshot_weights
from src.models.keeplora_plus import KeepLoRAPlus
from src.models.training import begin, train


def prepared(state, hook, stored=None):
    """The module of a hook beside the CLIP, as a run puts it there."""
    state.own = {"KeepLoRAPlus": state.device.place(hook.build(state.model))}
    if stored:
        state.own["KeepLoRAPlus"].load_state_dict(stored)
    return state


def trained(model, task, carried=None, stored=None, **options):
    """(state, hook) after a task."""
    hook = KeepLoRAPlus(keeplora_rank=3, **options)
    hook.load_carry(carried or {})
    state = prepared(state_of(copy.deepcopy(model), task), hook, stored)
    train(state, [hook])
    return state, hook


def test_two_tasks_are_those_of_the_reference():
    reference, first, second = Reference(tiny_clip("vit"), 3, plus=True), tiny_task(), tiny_task(3, "second")
    reference.task(state_of(tiny_clip("vit"), first))
    state, hook = trained(tiny_clip("vit"), first)
    torch.testing.assert_close(hook.heads[0], reference.head, **TIGHT)
    stored = state.own["KeepLoRAPlus"].state_dict()
    reference.task(state_of(tiny_clip("vit"), second))
    after, hook = trained(state.final_model, second, hook.carry(), stored)
    torch.testing.assert_close(hook.heads[1], reference.head, **TIGHT)
    assert torch.equal(hook.heads[0], stored["0"]) and [head.requires_grad for head in hook.heads] == [False, True]
    assert (hook.heads[1].norm(dim=1) - 1).abs().max() > 1e-4, "the head has trained"
    for name, value in after.final_model.state_dict().items():
        torch.testing.assert_close(value, reference.model.state_dict()[name], **TIGHT, msg=name)


def test_a_class_without_an_image_starts_at_its_text(capsys):
    """Theirs ends there."""
    task = tiny_task()
    split = task.split("train")
    three = split.subset([index for index, label in enumerate(split.labels) if label != 2])
    state = state_of(tiny_clip("vit"), replace(task, splits={**task.splits, "train": three}))
    hook = KeepLoRAPlus(keeplora_rank=3)
    begin(prepared(state, hook), [hook])
    tokens = clip.tokenize(["a photo of a dog."], state.model.context_length)
    with torch.no_grad():
        text = F.normalize(tiny_clip("vit").encode_text(tokens), dim=1)[0]
    torch.testing.assert_close(hook.heads[0][2].detach(), text, **TIGHT)
    assert "1 of 4 classes of tiny have no image in the full batches of the pass" in capsys.readouterr().out


def classes_of(state, task):
    return Classes(task.name, task.name, task.classnames, task.templates,
                   zeroshot_weights(state.final_model, task.classnames, task.templates))


def test_heads_act_in_label_space_task_on_the_class_names_of_their_task():
    task = tiny_task()
    state, hook = trained(tiny_clip("vit"), task)
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double()
    own, turned = classes_of(state, task), classes_of(state, replace(task, classnames=task.classnames[::-1]))
    features, head = F.normalize(state.final_model.encode_image(images), dim=1), hook.heads[0].detach()
    expected = (state.model.logit_scale.exp() * features @ own.weights
                + 30 * features @ F.normalize(head, dim=1).T)
    with torch.no_grad():
        scores = hook.scores(state, images, {"task": [own], "all": [own, turned]})
    assert scores.keys() == {"task"}
    torch.testing.assert_close(scores["task"], expected, **TIGHT)
    assert hook.scores(state, images, {"task": [turned]}) is None
    assert hook.scores(state, images, {"all": [own]}) is None


def test_a_task_of_known_class_names_starts_its_head_again():
    task = tiny_task()
    state, hook = trained(tiny_clip("vit"), task)
    _, again = trained(state.final_model, replace(task, name="again"), hook.carry(), hook.heads.state_dict())
    assert again.names == hook.names == [list(task.classnames)] and len(again.heads) == 1
    assert not torch.equal(again.heads[0], hook.heads[0])


def test_several_tasks_at_once_are_refused():
    task = tiny_task()
    state = state_of(tiny_clip("vit"), replace(task, parts=(task, tiny_task(3, "second"))))
    with pytest.raises(UserError, match="--joint with --method keeplora-plus: .*--method keeplora"):
        begin(state, [KeepLoRAPlus()])
