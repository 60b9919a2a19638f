"""Recover a model of 2 bits with LoRA on a GLUE task: packed codes stand still, thin float matrices beside them learn.

The float model is compressed without training, packed, and given adapters that are trained on the task's labels with
the stock Trainer; then they are taken into the packed file as its low-rank correction, so that it loads without peft.

    python recipes/recover_with_lora.py --data_dir DATA --task mrpc
"""

import argparse
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from study import Results, Study
from torch import nn
from transformers import Trainer, TrainingArguments

import hf_mpq
from hf_mpq.plugin.lora import for_packed, merge_adapters
from hf_mpq.tasks import subset

LAYERS = ["query", "key", "value", "dense"]


def main() -> None:
    """Rows: float, packed, with adapters, with the adapters in the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--bits", type=int, default=2)
    parser.add_argument("--embedding_bits", type=int, default=4)
    parser.add_argument("--rounding", default="gptq")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--train_rows", type=int, default=None, help="default: all that the float model was trained on")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--dev_rows", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of fine-tuned float models")
    parser.add_argument("--out", type=Path, default=Path("out/recover-with-lora"))
    args = parser.parse_args()
    study = Study(args.task, args.models, args.data_dir, dev_rows=args.dev_rows)
    results = Results(args.out / "rows.jsonl")
    report(results, args, study, "float", study.model(), study.folder)
    model = compressed(study, args)
    report(results, args, study, "packed", model, saved(model, study, args.out / "packed"))
    model = trained(study, model, args)
    adapter = args.out / "adapter"
    model.save_pretrained(adapter)
    report(results, args, study, "packed, with adapters", model, args.out / "packed", adapter)
    merged = merge_adapters(model)
    report(results, args, study, "adapters in the file", merged, saved(merged, study, args.out / "merged"))


def compressed(study: Study, args) -> nn.Module:
    """Packed, every encoder weight at the same bits, without training."""
    config = hf_mpq.MPQConfig(bits=args.bits, embedding_bits=args.embedding_bits)
    small = hf_mpq.compress(study.model(), config=config, calibration=study.calibration(256), rounding=args.rounding)
    return hf_mpq.pack(small)


def trained(study: Study, model: nn.Module, args) -> nn.Module:
    """The packed model with trained adapters, and its head trained along."""
    torch.manual_seed(args.seed)
    config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, target_modules=LAYERS, task_type="SEQ_CLS")
    adapted = get_peft_model(model, for_packed(config))
    rows = study.data["train"] if args.train_rows is None else subset(study.data["train"], args.train_rows, args.seed)
    arguments = TrainingArguments(
        str(args.out / "run"),
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        warmup_steps=0.1,
        per_device_train_batch_size=32,
        train_sampling_strategy="group_by_length",
        bf16=True,
        save_strategy="no",
        report_to=[],
        seed=args.seed,
        use_cpu=not torch.cuda.is_available(),
        label_names=["labels"],
    )
    prepared = study.task.prepare(rows, study.tokenizer, study.max_length)
    collator = study.task.data_collator(study.tokenizer)
    trainer = Trainer(adapted, arguments, train_dataset=prepared, data_collator=collator)
    trainer.train()
    return trainer.accelerator.unwrap_model(adapted, keep_fp32_wrapper=False).cpu().eval()


def saved(model: nn.Module, study: Study, folder: Path) -> Path:
    """The folder that a model was written to with its tokenizer."""
    model.save_pretrained(folder)
    study.tokenizer.save_pretrained(folder)
    return folder


def report(results: Results, args, study: Study, name: str, model: nn.Module, *folders: Path) -> None:
    """A row: scores on the dev set, and the megabytes of the weights in some folders."""
    files = (file for folder in folders for file in folder.glob("*.safetensors"))
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    results.add(task=args.task, model=name, bits=args.bits, rank=args.rank, **study.judge(model), megabytes=megabytes)


if __name__ == "__main__":
    main()
