"""The handwritten digits, trained by all ranks that torchrun has started, on one machine or many:

torchrun --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d --rdzv-endpoint first-node:29400 train.py --folder /results
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from torch import nn

from datasets_impl.digits import DigitsDataset, build_digits
from datasets_impl.loaders import build_loader
from models_impl.small_cnn import SmallCNN
from trainers.nn_trainer import NNTrainer


def main() -> None:
    """Every rank builds the same trainer; only the first one writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the best weights are kept")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=16, help="of each rank")
    args = parser.parse_args()
    weights = args.folder / "digits.safetensors"
    with tempfile.TemporaryDirectory() as data:  # of this process alone: the others write theirs
        row = {"dataset_file_name": build_digits(Path(data) / "digits.h5").name}
        loaders = {
            f"{tier}_dataloader": build_loader(DigitsDataset(row, data, tier), tier=tier, batch_size=args.batch_size)
            for tier in ("train", "validation", "test")
        }
        trainer = NNTrainer(
            **loaders,
            device="cuda" if torch.cuda.is_available() else "cpu",
            devices=int(os.environ["WORLD_SIZE"]),
            model_class=SmallCNN,
            model_class_params={"input_shape": (1, 8, 8), "output_shape": (10,)},
            optimizer_class=torch.optim.Adam,
            optimizer_class_params={"lr": 1e-3},
            criterion_class=nn.CrossEntropyLoss,
            criterion_class_params={},
            model_save_path=weights,
            # Where a pod was replaced, all start again from the best weights so far.
            initial_weights=weights if weights.exists() else None,
            max_epoch=args.epochs,
            metrics=["accuracy"],
        )
        trainer.train()
        if os.environ["RANK"] == "0":
            print(f"accuracy {trainer.test_metrics['accuracy']:.4f}, weights in {weights}")


if __name__ == "__main__":
    main()
