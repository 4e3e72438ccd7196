"""The processes of a run: their ranks, and what they exchange. Started by torchrun, on one node or on
several that share a file system:

    torchrun --nproc-per-node 2 -m src.main --method finetune --train-dataset DTD --iterations 1000 --lr 1e-5

Each process takes its own rows of every global batch, and the gradients are averaged around the whole Step.
The loss of a step is therefore the **mean over the processes of their local losses**. Three rules make it
equal to that of a single process: a mean over rows is taken over the local rows; a term that couples rows
of a batch sees all processes' rows (``gather``), whose backward **sums** the gradients from all processes'
losses, so that the mean that follows divides once; a sum over rows is multiplied by the number of
processes. If processes have unequal numbers of rows (``uneven``), the Step weights means over them by these
numbers.

A process that ends immediately breaks the exchange in which the others wait. So that only the one with news
prints, a process records in torchrun's store, which outlives it, the status with which it stops; one ended
by a signal records that it was asked to stop.
"""

import contextlib
import datetime
import functools
import os
import socket
import time
import warnings

import torch
import torch.distributed as dist
from torch import nn

from src.errors import UserError
from src.machine.interruption import Interrupted

TURN = datetime.timedelta(hours=12)  # the patience of a process that waits for the first one to download a dataset
STEP = datetime.timedelta(minutes=10)  # in an exchange that all processes reach at about the same time
GLANCE = 0.02  # seconds between two looks into the store


class World:
    """``rank`` of ``size`` processes; ``local_rank`` is the index of this node's device. With one process
    every exchange is the identity. All processes call the exchanging members in the same order."""

    def __init__(self, rank=0, size=1, local_rank=0, store=None):
        self.rank, self.size, self.local_rank = rank, size, local_rank
        self.first = rank == 0
        self._store, self._meetings, self._turns, self._device = store, 0, None, torch.device("cpu")
        self._within_turn, self._last, self._uneven = False, None, False
        self._order = _Order(size)

    def start(self, device):
        """Meet the other processes on a torch.device, which decides the backend; with one process do
        nothing. Waits for missing processes, and cannot react to signals meanwhile."""
        if self.size == 1 or dist.is_initialized():
            return
        self._device = device
        on_cuda = device.type == "cuda"
        if on_cuda:
            self._require_own_devices(device)
        dist.init_process_group("nccl" if on_cuda else "gloo", rank=self.rank, world_size=self.size, timeout=STEP,
                                store=dist.PrefixStore(self._key("meeting"), self._store),
                                device_id=device if on_cuda else None)
        self._turns = dist.new_group(timeout=TURN, backend="gloo")

    def _require_own_devices(self, device):
        """Refuse processes that share a CUDA device, which only torch's names of them tell: each may see one alone."""
        self._store.set(f"{self._key('device')} {self.rank}", _called(device))
        called = [self._store.get(f"{self._key('device')} {rank}").decode() for rank in range(self.size)]
        shared = [rank for rank in range(self.size) if called[rank] == called[self.rank]]
        if len(shared) > 1:
            raise UserError(f"--nproc-per-node: the processes {', '.join(map(str, shared))} have one CUDA device "
                            "together; start as many as there are devices, or give --device cpu")

    def stop(self):
        """End the run; another one may follow in these processes."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
        self._meetings, self._last = self._meetings + 1, None

    def _key(self, word):
        return f"{word} {self._meetings}"

    # -- how a run ends ------------------------------------------------------------------------------------------------

    def first_to_stop(self, status):
        """Record that this process stops, with an exit ``status``. Return whether it is the first to do so."""
        if self.size == 1:
            return True
        own = f"{self.rank} {status}"
        try:
            return self._store.compare_set(self._key("stopped"), "", own).decode() == own
        except RuntimeError:  # without torchrun the first process holds the store, and it is gone
            return False

    def stopped(self, own):
        """Return the exit status of the first process that recorded its stop; None if none has, ``own`` if
        the store is gone."""
        if self.size == 1:
            return None
        try:
            said = self._store.check([self._key("stopped")]) and self._store.get(self._key("stopped"))
        except RuntimeError:  # as above
            return own
        return int(said.split()[1]) if said else None

    def await_first(self):
        """Wait, when all processes have agreed to stop, until the first has stopped, since it saves
        everything.

        If another process ended earlier, torchrun would soon end the first. Without an agreement, do not
        wait: the first may be stuck in an exchange that only breaks when this process ends.
        """
        while self._last is not None and self.stopped(own=0) is None:
            time.sleep(GLANCE)

    def is_broken(self, error):
        """Return whether an exception means that the exchange broke because another process left it."""
        return self.size > 1 and (isinstance(error, dist.DistError)
                                  or isinstance(error, RuntimeError) and "gloo" in str(error))  # it has no own type

    @contextlib.contextmanager
    def interrupted_together(self):
        """Make an Interrupted raised by one process inside the context interrupt the others, which may wait
        for it in an exchange."""
        try:
            yield
        except Interrupted as error:
            self._ask(str(error))
            raise
        except RuntimeError as error:
            if self.is_broken(error) and (asked := self._told("asked")):
                raise Interrupted(asked) from None
            raise

    def all_stop(self, asked, step):
        """Return why all processes end after this ``step``: the reason with which one of them was ``asked``
        to; None while they continue. The first process reads the request and picks the step after its own,
        which no other process can have passed, since its gradients need all of them."""
        if self.size == 1:
            return asked
        if asked:
            self._ask(asked)
        if self.first and self._last is None and self._told("asked"):
            self._store.set(self._key("last"), str(step + 1))
        if self._last is None and (last := self._told("last")):
            self._last = int(last)
        return self._told("asked") if self._last is not None and step >= self._last else None

    def reason_to_stop(self):
        """Return the signal that one of several processes announced to the others; None if there is none."""
        return self._told("asked") if self.size > 1 else None

    def _ask(self, why):
        if self.size > 1:
            self._store.compare_set(self._key("asked"), "", why)

    def _told(self, word):
        key = self._key(word)
        return self._store.get(key).decode() if self._store.check([key]) else None

    def require_same(self, value, message):
        """Raise UserError with ``message`` if processes have different values, since they would never meet again."""
        if len({repr(found) for found in self._of_all(value)}) > 1:
            raise UserError(message)

    def _of_all(self, value):
        """Return [value of each process], on every process."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value, group=self._turns)
        return found

    # -- the step ------------------------------------------------------------------------------------------------------

    @property
    def part(self):
        """(rank, size): which part of a list belongs to this process."""
        return self.rank, self.size

    def parallel(self, step, all_used=False):
        """Return the module whose backward averages gradients over the processes; ``step`` itself with one
        process or if nothing trains.

        ``all_used``: every parameter that trains gets a gradient in every step. If that is not known, DDP
        searches for those without one, and they get none, as in one process. Inputs are not moved: DDP gets
        no device.

        On the CPU it always searches. Without the search DDP reorders its buckets after a process's first
        step, and gloo sums the values of three or more processes in an order that depends on the position
        in a bucket: an interrupted run would not resume bit for bit.
        """
        if self.size == 1 or not any(parameter.requires_grad for parameter in step.parameters()):
            return step
        searches = not all_used or self._device.type == "cpu"
        if searches:  # DDP warns if it never finds an unused one
            step.register_parameter("unused", nn.Parameter(next(step.parameters()).new_zeros(())))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about broadcast_buffers, whose new name torch 2.6 lacks
            wrapped = nn.parallel.DistributedDataParallel(step, broadcast_buffers=False,
                                                          find_unused_parameters=searches)
        self._order.rule(wrapped)
        return wrapped

    @contextlib.contextmanager
    def uneven(self, uneven=True):
        """Let ``gather`` and ``first_row`` handle unequal numbers of rows inside the context, by exchanging them."""
        self._uneven = uneven and self.size > 1
        try:
            yield
        finally:
            self._uneven = False

    def gather(self, rows):
        """Gather (n, ...) of each process -> (sum of all n, ...) in rank order, with gradient: backward
        sums the gradients from all processes' losses."""
        if self.size == 1:
            return rows
        if rows.requires_grad and torch.is_grad_enabled():
            self._order.gathered()
        return _Gather.apply(rows, self._order, self.rank, self._counts(rows))

    def first_row(self, rows):
        """Return the index at which this process's (n, ...) rows begin in the result of ``gather``."""
        return sum(self._counts(rows)[:self.rank])

    def _counts(self, rows):
        """Return [number of rows of each process]."""
        if not self._uneven:
            return [len(rows)] * self.size
        own = torch.tensor([len(rows)], device=rows.device)
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return torch.cat(found).tolist()

    # -- numbers -------------------------------------------------------------------------------------------------------

    def sum(self, tensor):
        """Return the sum of all processes' ``tensor``, of any shape."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def of_first(self, tensor):
        """Return the first process's ``tensor``, on the exchanging device. For results of decompositions:
        singular vectors may have other signs on another machine."""
        if self.size > 1:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            dist.broadcast(tensor, src=0)
        return tensor

    def average_gradients(self, module):
        """Replace each parameter's ``grad`` by its mean over the processes."""
        for parameter in module.parameters() if self.size > 1 else ():
            parameter.grad = self.sum(parameter.grad) / self.size

    def means(self, numbers):
        """Return {name: mean over the processes} of {name: number}, with the same names in each process."""
        numbers = {name: float(torch.as_tensor(value).detach()) for name, value in numbers.items()}
        if self.size == 1 or not numbers:
            return numbers
        mean = self.sum(torch.tensor(list(numbers.values()), dtype=torch.float64, device=self._device)) / self.size
        return dict(zip(numbers, mean.tolist(), strict=True))

    def interleave(self, own, total):
        """Return the whole list of ``total`` items, everywhere, from lists with every size-th item,
        starting at the own rank."""
        if self.size == 1:
            return own
        whole = [None] * total
        for rank, part in enumerate(self._of_all(own)):
            whole[rank::self.size] = part
        return whole

    # -- turns ---------------------------------------------------------------------------------------------------------

    def wait(self):
        """Wait until all processes are here; before they have met there is nothing to wait for."""
        if self.size > 1 and dist.is_initialized():
            dist.barrier(group=self._turns)

    def first_then_others(self, work):
        """Run ``work()`` in the first process, then in the others, so that it may download or write what
        they then find. Nested turns are part of the outer one."""
        if self._within_turn:
            return work()
        if not self.first:
            self.wait()
        self._within_turn = True
        try:
            result = work()
        finally:
            self._within_turn = False
        if self.first:
            self.wait()
        return result


@functools.cache
def this_world():
    """Return the World described by torchrun's environment; a single process without it."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return World()
    store, rank, size = next(dist.rendezvous("env://"))
    return World(rank, size, int(os.environ.get("LOCAL_RANK", 0)), store)


def in_turn(function):
    """Make the first process call a function before the others do."""
    @functools.wraps(function)
    def call(*arguments, **options):
        return this_world().first_then_others(lambda: function(*arguments, **options))
    return call


def _called(device):
    """What no other CUDA device of any machine is called."""
    return f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}"


class _Order:
    """One order of communication in all processes: backward of all gathers of a step before any average of DDP.

    DDP starts an average whenever its gradients are ready. Where processes differ in what their batch has (replay),
    that is before a gather's backward in one and behind it in another, and exchanges in different orders never meet.
    Gathers are among themselves in the reverse order of their forward, and averages in that of DDP's buckets.
    """

    def __init__(self, size):
        self._size, self._gathers, self._held = size, 0, []

    def rule(self, wrapped):
        """From here on the averages of a DistributedDataParallel come in this order."""
        wrapped.register_forward_pre_hook(lambda *_: self._begin())
        wrapped.register_comm_hook(self, _Order._average)

    def _begin(self):
        self._gathers, self._held = 0, []

    def gathered(self):
        """A gather whose backward is to come."""
        self._gathers += 1

    def passed(self):
        """That backward has come."""
        self._gathers = max(0, self._gathers - 1)  # one outside of a step counts for none
        if not self._gathers:
            self._release()

    def _average(self, bucket):
        """DDP's hook: a bucket of gradients -> the Future of their mean over the processes."""
        values = bucket.buffer().div_(self._size)
        if not self._gathers:
            return dist.all_reduce(values, async_op=True).get_future().then(lambda future: future.value()[0])
        if not self._held:  # of a gather that the loss does not use no backward comes
            torch.autograd.Variable._execution_engine.queue_callback(self._release)
        found = torch.futures.Future(devices=[values.device] if values.is_cuda else [])
        self._held.append((values, found))
        return found

    def _release(self):
        held, self._held = self._held, []
        for values, found in held:
            dist.all_reduce(values)
            found.set_result(values)


class _Gather(torch.autograd.Function):
    """All-gather in forward; in backward, the sum over processes of the gradients of the own rows.
    ``counts``: rows of each process; they are padded to the largest for the exchange."""

    @staticmethod
    def forward(context, rows, order, rank, counts):
        context.order, context.rank, context.counts = order, rank, counts
        own = rows.contiguous()
        if len(rows) < max(counts):
            own = torch.cat([own, own.new_zeros(max(counts) - len(rows), *rows.shape[1:])])
        found = [torch.empty_like(own) for _ in counts]
        dist.all_gather(found, own)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    @staticmethod
    def backward(context, gradient):
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)  # gloo has no reduce-scatter
        context.order.passed()
        return gradient.split(context.counts)[context.rank], None, None, None
