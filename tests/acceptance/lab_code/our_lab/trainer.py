"""A trainer with the documented parameters and methods and nothing else."""

import torch


class PlainTrainer:
    def __init__(
        self,
        train_dataloader,
        validation_dataloader,
        test_dataloader,
        device,
        model_class,
        model_class_params,
        optimizer_class,
        optimizer_class_params,
        criterion_class,
        criterion_class_params,
        model_save_path,
        max_epoch,
        gain=1.0,
    ):
        self.loaders = {"train": train_dataloader, "validation": validation_dataloader, "test": test_dataloader}
        self.model = model_class(**model_class_params).to(device)
        self.optimizer = optimizer_class(self.model.parameters(), **optimizer_class_params)
        self.criterion = criterion_class(**criterion_class_params)
        self.model_save_path = model_save_path
        self.max_epoch = max_epoch
        self.gain = gain
        self.training_epoch_loss_history = []
        self.validation_epoch_loss_history = []

    def train(self):
        for _ in range(self.max_epoch):
            total = 0.0
            for inputs, targets in self.loaders["train"]:
                output, regularization = self.model(inputs)
                loss = self.gain * self.criterion(output, targets) + regularization
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.item()
            self.training_epoch_loss_history.append(total / len(self.loaders["train"]))
            self.validation_epoch_loss_history.append(self.validate())
        torch.save(self.model.state_dict(), self.model_save_path)

    def validate(self):
        return self._loss("validation")

    def evaluate(self, return_outputs_targets_and_loss=False):
        if not return_outputs_targets_and_loss:
            return self._loss("test")
        with torch.no_grad():
            batches = [(self.model(inputs)[0], targets) for inputs, targets in self.loaders["test"]]
        outputs, targets = (torch.cat(part).numpy() for part in zip(*batches, strict=True))
        return {"outputs": outputs, "targets": targets, "loss": self._loss("test")}

    def load_best_performing_model(self):
        self.model.load_state_dict(torch.load(self.model_save_path, weights_only=True))

    @torch.no_grad()
    def _loss(self, tier):
        losses = [self.criterion(self.model(inputs)[0], targets).item() for inputs, targets in self.loaders[tier]]
        return sum(losses) / len(losses)
