"""Tasks with training code of their own, good ones and bad ones, for tests to name by import path."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from letitgo.weights import held_of, trainable


class Digits:
    """Ten classes told apart by a plain loop with momentum and decay, dropout included."""

    epochs = 3

    def __init__(self, rate: float = 0.1) -> None:
        draw = torch.Generator().manual_seed(0)
        self.labels = torch.arange(160) % 10
        self.inputs = 3 * one_hot(self.labels, 10) + 0.5 * torch.randn(160, 10, generator=draw)
        self.rate = rate

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 16), nn.Linear(16, 10))

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), self.rate, momentum=0.9, weight_decay=1e-3)

    def epoch(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for batch in torch.randperm(120).split(20):
            optimizer.zero_grad()
            cross_entropy(model(self.inputs[batch]), self.labels[batch]).backward()
            optimizer.step()

    def train(self, model, seed):
        optimizer = self.optimizer(model)
        for _ in range(self.epochs):
            self.epoch(model, optimizer)
            yield

    def evaluate(self, model):
        with torch.no_grad():
            outputs = model(self.inputs[120:])
        right = outputs.argmax(1) == self.labels[120:]
        return {"accuracy": right.float().mean(), "even": right[::2].float().mean(), "correct": right}


class Resuming(Digits):
    """Goes on from what it yielded. ``stop`` makes it fail in that epoch, if a file says so."""

    def __init__(self, flag: str = "") -> None:
        super().__init__()
        self.flag = flag

    def train(self, model, seed, resume=None):
        optimizer = self.optimizer(model)
        done = 0
        if resume is not None:
            optimizer.load_state_dict(resume["optimizer"])
            done = resume["epoch"]
        for epoch in range(done, self.epochs):
            if self.flag and epoch == 2:
                from pathlib import Path

                if Path(self.flag).exists():
                    raise RuntimeError("the power went")
            self.epoch(model, optimizer)
            yield {"optimizer": optimizer.state_dict(), "epoch": epoch + 1}


class Parts(Resuming):
    """Hands its optimiser what moves of the network, down to single weights."""

    def optimizer(self, model):
        return torch.optim.Adam(trainable(model), 0.03)


class Released(Parts):
    """Trains what is to be held."""

    epochs = 1

    def epoch(self, model, optimizer):
        if held := held_of(model):
            held.release()
        super().epoch(model, torch.optim.SGD(model.parameters(), self.rate))


class Written(Parts):
    """Writes to weights by hand."""

    epochs = 1

    def epoch(self, model, optimizer):
        super().epoch(model, optimizer)
        with torch.no_grad():
            model[0].weight += 1


class Wrong(Parts):
    """Judged by a share of which less is better."""

    metric = "error"
    more_is_better = False
    share = True

    def evaluate(self, model):
        return {"error": 1 - super().evaluate(model)["accuracy"]}


class FreezesItself(Parts):
    """Freezes a layer that letitgo lets move."""

    epochs = 1

    def epoch(self, model, optimizer):
        model[0].requires_grad_(False)
        super().epoch(model, optimizer)


class Whole(Digits):
    """Trains in one go."""

    epochs = 1

    def train(self, model, seed):
        self.epoch(model, self.optimizer(model))


class Spare(Whole):
    """Has a layer that no input passes."""

    def model(self):
        model = super().model()
        model[1].spare = nn.Linear(4, 4, bias=False)
        return model


class Normed(Whole):
    """Has running statistics."""

    def model(self):
        return nn.Sequential(nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


class Drifting(Normed):
    """Changes running statistics by hand."""

    def train(self, model, seed):
        super().train(model, seed)
        model[1].running_mean += 1


class Regression(Digits):
    """Judged by an error, of which less is better."""

    epochs = 1
    metric = "mse"
    more_is_better = False

    def train(self, model, seed):
        optimizer = self.optimizer(model)
        for _ in range(20):
            optimizer.zero_grad()
            (model(self.inputs[:120]) - self.inputs[:120]).square().mean().backward()
            optimizer.step()

    def evaluate(self, model):
        with torch.no_grad():
            return {"mse": (model(self.inputs[120:]) - self.inputs[120:]).square().mean().item()}


class ByKeyword(Whole):
    """Calls its network with keywords, as those of transformers are."""

    def model(self):
        return Keyed()

    def epoch(self, model, optimizer):
        optimizer.zero_grad()
        cross_entropy(model(features=self.inputs[:120])["logits"], self.labels[:120]).backward()
        optimizer.step()

    def evaluate(self, model):
        with torch.no_grad():
            found = model(features=self.inputs[120:])["logits"].argmax(1)
        return {"accuracy": (found == self.labels[120:]).float().mean()}


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(10, 16), nn.Linear(16, 10)

    def forward(self, features):
        return {"logits": self.head(self.body(features).relu())}


class Thawing(Whole):
    def train(self, model, seed):
        model.requires_grad_(True)
        super().train(model, seed)


class Replacing(Whole):
    def train(self, model, seed):
        return nn.Linear(10, 10)


class Growing(Whole):
    def train(self, model, seed):
        super().train(model, seed)
        model.more = nn.Linear(2, 2)


class Idle(Whole):
    def train(self, model, seed):
        pass


class Raising(Whole):
    def train(self, model, seed):
        raise ValueError("no such file")


class TooFew(Digits):
    def train(self, model, seed):
        for _ in range(2):
            self.epoch(model, self.optimizer(model))
            yield


class TooMany(Digits):
    def train(self, model, seed):
        for _ in range(4):
            self.epoch(model, self.optimizer(model))
            yield


class Unmeasured(Whole):
    def evaluate(self, model):
        super().evaluate(model)
        return {"loss": 1.0}


class Wordy(Whole):
    def evaluate(self, model):
        super().evaluate(model)
        return 0.9


class NotANumber(Whole):
    def evaluate(self, model):
        super().evaluate(model)
        return {"accuracy": float("nan")}


class Untrained:
    def model(self):
        return nn.Linear(2, 2)

    def evaluate(self, model):
        return {"accuracy": 1.0}


class Unpaused(Whole):
    epochs = 3


class Endless(Digits):
    epochs = 0


class Nameless(Digits):
    metric = 3


class Blind(Whole):
    def evaluate(self, model):
        return {"accuracy": 0.5}


class Shapeless(Whole):
    def model(self):
        return "a network"


class Restless(Whole):
    """Does not repeat itself."""

    def train(self, model, seed):
        super().train(model, seed)
        noise = torch.Generator()
        noise.seed()
        with torch.no_grad():
            model[4].bias += 0.01 * torch.rand(10, generator=noise)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 10))


def error(outputs, labels):
    return (outputs.argmax(1) != labels).float().mean()


class Shifted(Whole):
    """The same digits, their features in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = self.inputs.flip(1)

    def validate(self, model):
        return {"accuracy": self.evaluate(model)["accuracy"], "n": 40}


class Validated(Digits):
    """Holds examples out of the training set, which ``epoch`` then leaves alone."""

    def validate(self, model):
        with torch.no_grad():
            right = model(self.inputs[100:120]).argmax(1) == self.labels[100:120]
        return {"accuracy": right.float().mean(), "n": 20}

    def epoch(self, model, optimizer):
        for batch in torch.randperm(100).split(20):
            optimizer.zero_grad()
            cross_entropy(model(self.inputs[batch]), self.labels[batch]).backward()
            optimizer.step()


class ValidatedResuming(Validated, Resuming):
    """The same, and goes on from what it yielded."""


class InPercent(Whole):
    def evaluate(self, model):
        return {"accuracy": 100 * super().evaluate(model)["accuracy"]}
