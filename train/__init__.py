"""The trainer, run from the checkout: `python -m train pretrain --run-dir runs/demo`."""
