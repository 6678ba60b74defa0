"""A regression, judged by an error of which less is better: the progression of diabetes, bundled with scikit-learn.

letitgo map --task regression:Diabetes --tolerance 5             # in per cent of the baseline's error
letitgo finetune --task regression:Diabetes --pretrained regression:Others
"""

import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn.functional import mse_loss


class Diabetes:
    epochs = 10
    metric = "rmse"
    more_is_better = False
    sex = 1

    def __init__(self) -> None:
        bundle = load_diabetes()
        inputs, targets = torch.tensor(bundle.data).float(), torch.tensor(bundle.target).float()
        inputs, targets = inputs / inputs.std(0), (targets - targets.mean()) / targets.std()
        own = (inputs[:, 1] > 0) == bool(self.sex)
        inputs, targets = inputs[own], targets[own]
        test = torch.arange(len(inputs)) % 4 == 0
        self.train_set, self.test_set = (inputs[~test], targets[~test]), (inputs[test], targets[test])
        self.constant = (targets[test] - targets[~test].mean()).square().mean().sqrt().item()

    def model(self):
        return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))

    def train(self, model, seed, resume=None):
        inputs, targets = self.train_set
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        done = 0
        if resume is not None:
            optimizer.load_state_dict(resume["optimizer"])
            done = resume["epoch"]
        for epoch in range(done, self.epochs):
            for batch in torch.randperm(len(inputs)).split(16):
                optimizer.zero_grad()
                mse_loss(model(inputs[batch]).squeeze(1), targets[batch]).backward()
                optimizer.step()
            yield {"optimizer": optimizer.state_dict(), "epoch": epoch + 1}

    @torch.no_grad()
    def evaluate(self, model):
        inputs, targets = self.test_set
        return {"rmse": mse_loss(model(inputs).squeeze(1), targets).sqrt(), "n": len(targets)}


class Others(Diabetes):
    """The same of the other half of the patients."""

    sex = 0
