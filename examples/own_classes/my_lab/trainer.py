"""A trainer written from the contract alone: a plain loop that keeps the weights of the best epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class AveragingTrainer:
    """Validates and tests an exponential moving average of the weights instead of the weights themselves.

    Args:
        decay: what remains of the average with every step, from 0 to below 1.
    """

    def __init__(
        self,
        *,
        train_dataloader: Any,
        validation_dataloader: Any,
        test_dataloader: Any,
        device: torch.device,
        model_class: type[torch.nn.Module],
        model_class_params: Mapping[str, Any],
        optimizer_class: type[torch.optim.Optimizer],
        optimizer_class_params: Mapping[str, Any],
        criterion_class: type,
        criterion_class_params: Mapping[str, Any],
        model_save_path: str,
        max_epoch: int,
        decay: float = 0.9,
    ) -> None:
        self._train_loader = train_dataloader
        self._validation_loader = validation_dataloader
        self._test_loader = test_dataloader
        self.device, self.model_save_path, self.max_epoch = device, model_save_path, max_epoch
        self.model = model_class(**model_class_params).to(device)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
        )
        self.optimizer = optimizer_class(self.model.parameters(), **optimizer_class_params)
        self.criterion = criterion_class(**criterion_class_params)
        self.training_epoch_loss_history: list[float] = []
        self.validation_epoch_loss_history: list[float] = []

    def train(self) -> None:
        for _ in range(self.max_epoch):
            losses = [
                self._step(inputs.to(self.device), targets.to(self.device)) for inputs, targets in self._train_loader
            ]
            self.training_epoch_loss_history.append(sum(losses) / len(losses))
            self.validation_epoch_loss_history.append(self.validate())
            if self.validation_epoch_loss_history[-1] == min(self.validation_epoch_loss_history):
                torch.save(self.average.state_dict(), self.model_save_path)
        self.load_best_performing_model()
        tested = self._evaluate(self._test_loader)
        self.test_score = tested["loss"]
        self.test_metrics = {"accuracy": float((tested["outputs"].argmax(1) == tested["targets"]).mean())}
        self.metric_directions = {"accuracy": "max"}

    def validate(self) -> float:
        return self._evaluate(self._validation_loader)["loss"]

    def evaluate(self, return_outputs_targets_and_loss: bool = False) -> Any:
        evaluated = self._evaluate(self._test_loader)
        return evaluated if return_outputs_targets_and_loss else evaluated["loss"]

    def load_best_performing_model(self) -> None:
        self.average.load_state_dict(torch.load(self.model_save_path, weights_only=True, map_location=self.device))

    def _step(self, inputs: Tensor, targets: Tensor) -> float:
        output, regularization = self.model(inputs)
        loss = self.criterion(output, targets)
        self.optimizer.zero_grad()
        (loss + regularization).backward()
        self.optimizer.step()
        self.average.update_parameters(self.model)
        return loss.item()

    @torch.no_grad()
    def _evaluate(self, loader: Any) -> dict[str, Any]:
        self.average.eval()
        batches = [(self.average(inputs.to(self.device))[0].cpu(), targets) for inputs, targets in loader]
        outputs, targets = (torch.cat(part) for part in zip(*batches, strict=True))
        return {"outputs": outputs.numpy(), "targets": targets.numpy(), "loss": float(self.criterion(outputs, targets))}
