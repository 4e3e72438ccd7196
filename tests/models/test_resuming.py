"""What an interrupted task resumes from."""

import distributed_cases

from src.machine.distributed import World
from src.models.finetune import Finetune
from src.models.hooks import Hooks
from src.models.lora_injection import inject_peft
from src.models.resuming import drawn_by_process


def test_who_draws_by_process():
    """Such a run goes on with as many processes as it had."""
    state = distributed_cases.state_of(World())
    assert drawn_by_process(state, [Finetune()]) is None
    assert "method of one's own" in drawn_by_process(state, [Finetune(), type("Own", (Hooks,), {})()])
    inject_peft(state.model, ("c_fc",), 2, 4, dropout=0.0)
    assert drawn_by_process(state, [Finetune()]) is None
    dropping = distributed_cases.state_of(World())
    inject_peft(dropping.model, ("c_fc",), 2, 4, dropout=0.1)
    assert "dropout" in drawn_by_process(dropping, [Finetune()])
