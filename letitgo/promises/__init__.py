"""Which promises of freezing a trainer keeps: see docs/guides/test-your-trainer.md."""
