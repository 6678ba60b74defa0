"""Transformers' Trainer fine-tunes a small BERT, built from a config, on texts that come with Python.

letitgo finetune --task bert_trainer:Topics --pretrained bert_trainer:OtherTopics --blocks 'bert.encoder.layer.*'
"""

import tempfile
import zlib
from pydoc_data.topics import topics

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()


class OtherTopics:
    """Which of four chapters of the Python manual 24 words are from."""

    chapters = ("typesmapping", "specialnames", "compound", "exceptions")

    def __init__(self, words: int = 24, steps: int = 40) -> None:
        self.steps = steps
        rows = []
        for label, chapter in enumerate(self.chapters):
            ids = [1 + zlib.crc32(word.encode()) % 999 for word in topics[chapter].split()][: 120 * words]
            rows += [
                {"input_ids": torch.tensor(ids[at : at + words]), "labels": torch.tensor(label)}
                for at in range(0, len(ids) - words, words)
            ]
        self.train_set = [row for i, row in enumerate(rows) if i % 4]
        self.test_set = [row for i, row in enumerate(rows) if i % 4 == 0]

    def model(self):
        config = BertConfig(
            vocab_size=1000, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
        )
        config.num_labels = len(self.chapters)
        return BertForSequenceClassification(config)

    def train(self, model, seed):
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                output_dir=folder,
                max_steps=self.steps,
                per_device_train_batch_size=16,
                learning_rate=2e-3,
                seed=seed,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
            )
            Trainer(model, arguments, train_dataset=self.train_set).train()

    @torch.no_grad()
    def evaluate(self, model):
        inputs, labels = (torch.stack([row[name] for row in self.test_set]) for name in ("input_ids", "labels"))
        correct = model(input_ids=inputs).logits.argmax(-1) == labels
        return {"accuracy": correct.float().mean(), "correct": correct}


class Topics(OtherTopics):
    chapters = ("string-methods", "formatstrings", "typesseq", "numeric-types")
