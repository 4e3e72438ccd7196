"""The moments of a run are no-ops until a method says otherwise, and evaluation sees a method's own scores."""

import pytest
import torch

from src.models.evaluation import evaluate
from src.models.finetune import Finetune
from src.models.hooks import Hooks, kept_for, named, promises
from src.models.training import train


class TheLabelAbove(Hooks):
    """Scores that always favour class 1, whatever the image."""

    def scores(self, state, images, spaces):
        ones = torch.ones(len(images), dtype=torch.long)
        return {space: torch.nn.functional.one_hot(ones, len(classes.classnames)).double()
                for space, (classes,) in spaces.items()}


def trained(make_model, make_state, hooks):
    state = make_state(make_model("vit"), iterations=3)
    reported = []
    train(state, hooks, lambda state, losses: reported.append(losses))
    return state, reported


def test_a_hook_with_nothing_overridden_says_nothing():
    hook, state = Hooks(), object()
    assert hook.begin(state) is None
    assert hook.losses(state, None) == {}
    assert hook.after_backward(state) is hook.after_step(state) is hook.end(state) is None
    assert hook.scores(state, None, {}) is None
    assert hook.state_dict() == {} == hook.carry() == hook.files(True) == hook.files(False)
    assert hook.load_state_dict({}) is None is hook.load_carry({})


def test_a_hook_with_nothing_overridden_changes_no_bit(make_model, make_state):
    (alone, losses), (beside, other_losses) = (
        trained(make_model, make_state, hooks) for hooks in ([Finetune()], [Finetune(), Hooks(), Hooks()]))
    assert losses == other_losses
    assert all(torch.equal(value, beside.model.state_dict()[name]) for name, value in alone.model.state_dict().items())


def test_terms_written_into_one_answer_are_not_in_the_next():
    shared = Hooks()
    shared.losses(None, None)["task"] = 1.0
    assert shared.losses(None, None) == {}


@pytest.mark.parametrize("hook, class_that_is_right", [(TheLabelAbove(), 1), (Hooks(), None)])
def test_evaluation_asks_the_hook_and_falls_back_to_plain_scores(
        hook, class_that_is_right, make_model, make_state, task, device):
    state = make_state(make_model("vit"))
    scores = evaluate(state.model, task, device, method=lambda images, spaces: hook.scores(state, images, spaces))
    labels = task.split("test").labels
    if class_that_is_right is None:
        assert scores == evaluate(state.model, task, device)
    else:
        assert scores["task"].top1 == pytest.approx(100 * labels.count(class_that_is_right) / len(labels))


def test_a_promise_is_not_inherited():
    class Promised(Hooks):
        all_used = True

    class Heir(Promised):
        pass

    assert promises(Promised(), "all_used") and not promises(Heir(), "all_used") and not promises(Hooks(), "all_used")


def test_names_of_hooks_that_are_called_alike():
    one, other = (type("Mine", (Hooks,), {"__module__": module})() for module in ("a", "b"))
    assert named([one, Hooks()]).keys() == {"Mine", "Hooks"}
    assert named([one, other]) == {"a.Mine": one, "b.Mine": other}
    assert kept_for({"Mine": 1}, "a.Mine") == 1 and kept_for({"Mine": 1, "a.Mine": 2}, "a.Mine") == 2
    assert kept_for({}, "Mine") == {}
