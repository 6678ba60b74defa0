"""Lightning trains a small convolutional network on images of digits.

letitgo map --task lightning_images:Images
letitgo ticket --task lightning_images:Images                     # trainable(model): single weights may move too
letitgo finetune --task lightning_images:Noisy --pretrained lightning_images:Images
"""

import logging
import warnings

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from letitgo import trainable

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Network(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16 * 4, 10)

    def forward(self, images):
        hidden = nn.functional.max_pool2d(self.conv1(images).relu(), 2)
        return self.head(nn.functional.max_pool2d(self.conv2(hidden).relu(), 2).flatten(1))

    def training_step(self, batch, index):
        images, labels = batch
        return cross_entropy(self(images), labels)

    def configure_optimizers(self):
        return torch.optim.Adam(trainable(self), lr=3e-3)


class Images:
    noise = 0.0

    def __init__(self, epochs: int = 3) -> None:
        self.rounds = epochs
        bundle = load_digits()
        images = torch.tensor(bundle.images, dtype=torch.float32).unsqueeze(1) / 16
        images += self.noise * torch.rand(images.shape, generator=torch.Generator().manual_seed(0))
        labels, test = torch.tensor(bundle.target), torch.arange(len(images)) % 5 == 4
        self.train_set, self.test_set = TensorDataset(images[~test], labels[~test]), (images[test], labels[test])

    def model(self):
        return Network()

    def train(self, model, seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's advice on workers
            trainer = lightning.Trainer(
                max_epochs=self.rounds,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(model, DataLoader(self.train_set, 64, shuffle=True))

    @torch.no_grad()
    def evaluate(self, model):
        images, labels = self.test_set
        correct = model(images).argmax(1) == labels
        return {"accuracy": correct.float().mean(), "correct": correct}


class Noisy(Images):
    noise = 1.0
