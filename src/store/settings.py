"""Settings of a run's files, from the command line."""

from dataclasses import dataclass, replace

from src.args import differences


@dataclass(frozen=True)
class Files:
    """Where a run writes, how often, and what it records of the command line itself.

    ``numbers``: {flag key: value} of flags that can change a result. ``flags``: {flag key: {"value",
    "origin"}} of all flags. ``argv``: the words of the command line. The other fields are flags of that
    name.
    """

    save: str | None
    resume: bool
    overwrite: bool
    save_interval: str
    keep_carry: str
    task_cache: str | None
    task_cache_size: float
    log_interval: int
    tensorboard: bool
    wandb: bool
    export: str | None
    export_format: str
    seed: int
    numbers: dict
    flags: dict
    argv: list

    def differences(self, before):
        """Describe the values that can change a result and differ from ``before``, {flag key: plain value}."""
        return differences(self.numbers, before)

    def values(self):
        """Return {flag key: value} of all flags."""
        return {key: flag["value"] for key, flag in self.flags.items()}

    def with_values(self, found):
        """Return a copy with other values of flags that can change a result, {flag key: value}."""
        flags = self.flags | {key: {**self.flags[key], "value": value} for key, value in found.items()}
        return replace(self, seed=found.get("seed", self.seed), numbers=self.numbers | found, flags=flags)
