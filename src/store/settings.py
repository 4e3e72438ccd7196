"""What a command line says of the files of a run."""

from dataclasses import dataclass, replace

from src.args import differences


@dataclass(frozen=True)
class Files:
    """Where a run writes, how often, and what is written of the command line itself.

    ``numbers``: {flag key: value} of what can change a result. ``flags``: {flag key: {"value", "origin"}} of all flags.
    ``argv``: the words of the command line. Other fields are flags of that name.
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
        """Texts of the values that can change a result and are not those of ``before``, {flag key: plain value}."""
        return differences(self.numbers, before)

    def values(self):
        """{flag key: value} of all flags."""
        return {key: flag["value"] for key, flag in self.flags.items()}

    def with_values(self, found):
        """The same for other values of flags that can change a result, {flag key: value}."""
        flags = self.flags | {key: {**self.flags[key], "value": value} for key, value in found.items()}
        return replace(self, seed=found.get("seed", self.seed), numbers=self.numbers | found, flags=flags)
