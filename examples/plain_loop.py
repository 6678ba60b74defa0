"""A plain loop with a checkpoint: digits first, then the same digits inverted.

python plain_loop.py                                              # trains on digits, writes digits.pt
letitgo finetune --task plain_loop:Inverted --pretrained digits.pt
letitgo map --task plain_loop:Digits
letitgo ticket --task plain_loop:Digits                           # trainable(model): single weights may move too
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from letitgo import trainable


class Digits:
    epochs = 5

    def __init__(self) -> None:
        bundle = load_digits()
        inputs, labels = torch.tensor(bundle.images, dtype=torch.float32) / 16, torch.tensor(bundle.target)
        test = torch.arange(len(labels)) % 5 == 4
        self.train_set, self.test_set = (inputs[~test], labels[~test]), (inputs[test], labels[test])

    def seen(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs - 0.5

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )

    def train(self, model, seed):
        inputs, labels = self.train_set
        optimizer = torch.optim.SGD(trainable(model), lr=0.02, momentum=0.9)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(labels)).split(64):
                optimizer.zero_grad()
                cross_entropy(model(self.seen(inputs[batch])), labels[batch]).backward()
                optimizer.step()
            yield

    @torch.no_grad()
    def evaluate(self, model):
        inputs, labels = self.test_set
        correct = model(self.seen(inputs)).argmax(1) == labels
        return {"accuracy": correct.float().mean(), "correct": correct}


class Inverted(Digits):
    """White on black becomes black on white. ``before`` says what is left of the old task."""

    def seen(self, inputs):
        return 0.5 - inputs

    def evaluate(self, model):
        return super().evaluate(model) | {"before": Digits.evaluate(Digits(), model)["accuracy"]}


if __name__ == "__main__":
    torch.manual_seed(0)
    task = Digits()
    model = task.model()
    for _ in task.train(model, seed=0):
        pass
    torch.save({"state_dict": model.state_dict()}, "digits.pt")
