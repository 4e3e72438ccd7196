"""UserError's message is what the user reads, also where it comes out of a worker process."""

import pytest

from src.errors import UserError

WORKER = """Caught UserError in DataLoader worker process 0.
Original Traceback (most recent call last):
  File "worker.py", line 1, in fetch
src.errors.UserError: a/b.png cannot be decoded; repair or remove it
"""


@pytest.mark.parametrize(("given", "message"), [
    ("--lr 0: expected a rate above 0", "--lr 0: expected a rate above 0"),
    (WORKER, "a/b.png cannot be decoded; repair or remove it"),
    ("  spaces at the ends \n", "spaces at the ends"),
])
def test_message(given, message):
    assert str(UserError(given)) == message
