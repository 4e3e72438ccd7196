"""Provide the datasets of a rescoring: class names, prompts and labels kept by a run."""

from src.datasets import stem
from src.datasets.common import Task
from src.errors import UserError
from src.report.predictions import when
from src.run.datasets import templates_of
from src.templates.collections import FIRST, FOR_ALL, SIMPLE


class KeptDatasets:
    """Replace Datasets by what one evaluation ``described``.

    ``template_given``: whether the command line asks for other prompts than the run had.
    """

    def __init__(self, described, template_given, data):
        self.described, self.template = described, data.template if template_given else None
        self._refuse_unknown_prompts()

    def _refuse_unknown_prompts(self):
        before = self.described["flags"].get("template", {}).get("value") or ""
        replaces_all = self.template and self.template.startswith(FOR_ALL) and self.template != FOR_ALL + FIRST
        if self.template and before.startswith(FOR_ALL) and not replaces_all:
            raise UserError(f"--template {self.template}: the run was scored with --template {before}, so the prompts "
                            f"of each dataset are unknown; give {FOR_ALL}NAME "
                            f"or {FOR_ALL}PROMPT")

    def turn_to(self, described):
        """Open the datasets of another evaluation from now on."""
        self.described = described

    def open(self, name, trained=False):
        """Return the Task without images. Raises UserError if the run did not compare with its classes."""
        facts = self.described["datasets"].get(stem(name))
        if facts is None:
            raise UserError(f"--rescore: the features {when(self.described['task'])} lack the classes of {name}, "
                            "which the run neither scored nor compared with; give "
                            "--label-space task")
        return Task(facts["name"], facts["classnames"], self._templates(facts), dict.fromkeys(facts["splits"]),
                    train_data=facts["train_data"], pairs=facts["pairs"])

    def _templates(self, facts):
        if self.template is None:
            return facts["templates"]
        if self.template == FOR_ALL + FIRST:
            return (facts["templates"] if facts["has_templates"] else SIMPLE)[:1]
        takes = self.template.startswith(FOR_ALL) or not facts["has_templates"]
        return templates_of(self.template) if takes else facts["templates"]
