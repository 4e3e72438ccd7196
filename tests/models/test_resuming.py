"""What an interrupted task resumes from."""

import distributed_cases
import pytest
import torch

from src.errors import UserError
from src.machine.distributed import World
from src.models import resuming
from src.models.finetune import Finetune
from src.models.hooks import Hooks
from src.models.lora_injection import inject_lora, inject_peft
from src.models.resuming import drawn_by_process


def test_who_draws_by_process():
    """Such a run resumes with the number of processes that it had."""
    state = distributed_cases.state_of(World())
    assert drawn_by_process(state, [Finetune()]) is None
    assert "custom method" in drawn_by_process(state, [Finetune(), type("Own", (Hooks,), {})()])
    inject_peft(state.model, ("c_fc",), 2, 4, dropout=0.0)
    assert drawn_by_process(state, [Finetune()]) is None
    dropping = distributed_cases.state_of(World())
    inject_peft(dropping.model, ("c_fc",), 2, 4, dropout=0.1)
    assert "dropout" in drawn_by_process(dropping, [Finetune()])


def test_built_in_methods_of_an_installed_package(monkeypatch):
    """There the package has another name."""
    monkeypatch.setattr(resuming, "PACKAGE", "clip_continual.src.models.")
    hook = type("Finetune", (Hooks,), {"__module__": "clip_continual.src.models.finetune"})()
    assert resuming.all_built_in([hook]) and not resuming.all_built_in([hook, Finetune()])


@pytest.mark.parametrize("add", [
    lambda model: model.register_buffer("mean_feature", torch.zeros(3)),
    lambda model: setattr(model, "prompt", torch.nn.Parameter(torch.zeros(3)))], ids=["buffer", "parameter"])
def test_what_is_added_to_the_clip_is_refused(make_model, add):
    model = make_model("vit")
    weights = resuming.WatchedWeights(model)
    weights.refuse_new(Finetune())
    add(model)
    with pytest.raises(UserError, match=r"Finetune adds the (buffer mean_feature|parameter prompt) to the CLIP"):
        weights.refuse_new(Finetune())


def test_adapters_are_no_addition(make_model):
    model = make_model("vit")
    weights = resuming.WatchedWeights(model)
    inject_lora(model, ["attn", "mlp.c_fc"])
    weights.refuse_new(Finetune())
    assert all(".lora_" in name for name in weights.changed())
