"""The task's own loss."""

from collections.abc import Mapping

from torch import Tensor

from .base import OBJECTIVES, Objective, Signals

IGNORED = -100


@OBJECTIVES.register("task")
class Task(Objective):
    """The loss that the student's head computes from the labels of the batch.

    Raises:
        ValueError: in forward, when the student gave no loss.
    """

    needs_labels = True

    def forward(self, student: Signals, teacher: Signals | None, batch: Mapping[str, Tensor]) -> Tensor:
        loss = student.outputs.get("loss")
        if loss is None:
            raise ValueError(
                f"the student gave no loss for a batch with {', '.join(batch)}: add the labels that its head expects "
                "(and name them in label_names), or train without the objective 'task'"
            )
        if not self.units(batch):  # a mean over no labels is not a number
            return 0.0 * student.outputs["logits"].float().sum()
        return loss.float()

    def units(self, batch: Mapping[str, Tensor]) -> int:
        """Its labels that count, of examples or of tokens; its examples where labels are numbers or none."""
        labels = batch.get("labels")
        if labels is None or labels.dim() not in (1, 2) or labels.is_floating_point():
            return super().units(batch)
        return int((labels != IGNORED).sum())
