"""Fine-tuning on class data and the methods that add distillation to it: Finetune, Distill, LwF, ZSCL."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from src.models.helpers import distillation, interpolate_, similarity, teacher_entropy
from src.models.hooks import Hooks
from src.models.modeling import (
    constant_text_features,
    image_features,
    random_tokens,
    text_features,
    tokens_of,
    trains,
)


class Finetune(Hooks):
    """Cross-entropy over the task's own classes: CE(s f(x) g(prompts)^T, y), one prompt a class (Radford et al., 2021).

    ``ls``: label smoothing.
    """

    def __init__(self, ls=0.0):
        self.label_smoothing = ls

    def begin(self, state):
        self.class_tokens = tokens_of(state.model, state.task.prompts())                     # (C, L)
        # A text tower that is not trained gives the same features at every step.
        self.class_features = None
        if not trains(state.model, "text"):
            with state.device.autocast():
                self.class_features = constant_text_features(state.model, self.class_tokens)  # (C, D)

    def losses(self, state, batch):
        classes = self.class_features
        if classes is None:
            classes = text_features(state.model, self.class_tokens)                          # (C, D)
        images = image_features(state.model, batch.images)                                   # (B, D)
        logits = similarity(images, classes, state.scale)                                    # (B, D) x (C, D) -> (B, C)
        return {"task": F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)}


@dataclass
class Reference:
    """What a distilling method compares on: a frozen ``teacher``, a split of ``images``, ``tokens`` (M, L) of texts."""

    teacher: Any
    images: Any
    tokens: torch.Tensor


class Distill(Finetune):
    """The task loss and distillation from a teacher on reference images against fixed reference texts.

    With Z_S = s f' g_T^T of the student and Z_T = s f_T g_T^T of the teacher, both (B, M), g_T the **teacher's** text
    features: ``image_loss`` is KD(Z_T, Z_S), rows are images; ``text_loss`` is KD(Z_T^T, Z_S^T), rows are texts and the
    softmax runs over the batch. Neither given means both. ``weight_adjust`` weighs them 0.5 instead of 1.
    A subclass says in ``reference`` what to compare on.
    """

    def __init__(self, ls=0.0, T=2.0, image_loss=False, text_loss=False, weight_adjust=False, feature_mse=False,
                 ref_sentences=None, text_datasets=(), ref_batch_size=None):
        super().__init__(ls)
        self.T, self.weight = T, 0.5 if weight_adjust else 1.0
        self.image_loss, self.text_loss = (image_loss, text_loss) if image_loss or text_loss else (True, True)
        self.feature_mse = feature_mse
        self.ref_sentences, self.text_datasets, self.ref_batch_size = ref_sentences, text_datasets, ref_batch_size

    def reference(self, state):
        """-> Reference."""
        raise NotImplementedError

    def begin(self, state):
        super().begin(state)
        reference = self.reference(state)
        self.teacher = reference.teacher
        with state.device.autocast():
            self.reference_texts = constant_text_features(self.teacher, reference.tokens)    # (M, D), once a task
        self.reference_images = state.stream(reference.images, "reference",
                                             self.ref_batch_size or state.settings.batch_size)

    def losses(self, state, batch):
        images = next(self.reference_images).images
        student = image_features(state.model, images)                                        # (B, D)
        with torch.no_grad():
            teacher = image_features(self.teacher, images)                                   # (B, D)
        student_logits = similarity(student, self.reference_texts, state.scale)              # (B, D) x (M, D) -> (B, M)
        teacher_logits = similarity(teacher, self.reference_texts, state.scale)
        losses = super().losses(state, batch)
        if self.image_loss:
            losses["image_distillation"] = self._distill(state, "image", teacher_logits, student_logits)
        if self.text_loss:
            losses["text_distillation"] = self._distill(state, "text", teacher_logits.T, student_logits.T)
        if self.feature_mse:
            losses["feature_mse"] = F.mse_loss(student, teacher)
        return losses

    def _distill(self, state, rows, teacher_logits, student_logits):
        loss = distillation(teacher_logits, student_logits, self.T)
        state.metrics[f"{rows}_kl"] = loss.detach() - teacher_entropy(teacher_logits, self.T)
        return self.weight * loss

    def texts(self, state, default):
        """Tokens of the reference texts: ``text_datasets`` > random > ``ref_sentences`` > ``default`` (a list)."""
        if self.ref_sentences == "random" and not self.text_datasets:
            return random_tokens(state.model, state.settings.seed)
        if self.text_datasets:
            tasks = [state.open_task(name) for name in self.text_datasets]
            texts = [prompt for task in tasks for prompt in task.prompts()]
        elif self.ref_sentences:
            texts = state.open_task(self.ref_sentences).sentences
        else:
            texts = default
        return tokens_of(state.model, texts)


class LwF(Distill):
    """Learning without forgetting (Li and Hoiem, 2016) for CLIP: the teacher is the model as it entered the task, on
    the task's own images and prompts."""

    def reference(self, state):
        return Reference(state.frozen(), state.task.split("train"), self.texts(state, state.task.prompts()))


class ZSCL(Distill):
    """ZSCL (Zheng et al., 2023, arXiv:2303.06628): the teacher is zero-shot CLIP, or ``ref_model``, or with
    ``ref_wise`` (1 - a) zero-shot + a weights at load, a = ``ref_wise_alpha``; on the images of ``ref_dataset``."""

    def __init__(self, ref_dataset, ref_model=None, ref_wise=False, ref_wise_alpha=0.8, **options):
        super().__init__(**options)
        self.ref_dataset, self.ref_model = ref_dataset, ref_model
        self.alpha = ref_wise_alpha if ref_wise else 0.0

    def reference(self, state):
        reference = state.open_task(self.ref_dataset)
        teacher = state.open_zeroshot(self.ref_model)
        if self.alpha:
            loaded = state.frozen()
            interpolate_(loaded, teacher, self.alpha)
            teacher = loaded
        return Reference(teacher, reference.reference_split, self.texts(state, reference.prompts()))
