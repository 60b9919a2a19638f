"""Half of the feed-forward rows and half of the heads of a fine-tuned MiniLM gone, the rest at 8 bits, trained.

    python recipes/train_pruned.py --data_dir DATA --task mrpc --output_dir out/pruned-mrpc

The heads and rows whose loss hurts least by Fisher information leave, the same number in every layer. Then distillation
from the float model. `bench_inference.py --pruned out/pruned-mrpc/packed` times what comes out.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from study import Study
from torch import Tensor, nn

import hf_mpq
from hf_mpq.core import Assignment, MatrixAssignment, PrecisionSpace
from hf_mpq.nn.batches import batches_of
from hf_mpq.nn.bfloat16 import cpu_multiplies_bf16
from hf_mpq.search import SCORERS

ATTENTION, FEED_FORWARD = r"attention\.self\.(query|key|value)$", r"(?<!attention\.)intermediate\.dense$"
RULES = {ATTENTION: {"groups": "head", "bits": [0, 8]}, FEED_FORWARD: {"bits": [0, 8]}}
FIXED = {ATTENTION: {"groups": "head"}}


def main() -> None:
    """Choose what leaves, train, pack, and print the score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=None, help="folder with one folder per task; default: the Hub")
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--models", type=Path, default=Path("out/float"), help="folder of fine-tuned float models")
    parser.add_argument("--share", type=float, default=0.5, help="of heads and of feed-forward rows that leave")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--output_dir", type=Path, default=Path("out/pruned-mrpc"))
    args = parser.parse_args()
    study = Study(args.task, args.models, args.data_dir)
    batches = batches_of(study.calibration(256), study.model(), 16, 256)
    space = hf_mpq.MPQConfig(bits=8, rules=RULES).resolve(study.model())
    scores = SCORERS["fisher"]().score(study.model(), space, batches)
    config = hf_mpq.MPQConfig(
        bits=8,
        rules=FIXED,
        activation="static",
        quantizer="lsq",
        method="uniform",
        assignment=halved(space, scores, args.share).to_dict(),
    )
    model = hf_mpq.quantize(study.model(), config)
    arguments = hf_mpq.MPQTrainingArguments(
        str(args.output_dir),
        num_train_epochs=args.epochs,
        learning_rate=1e-4,
        warmup_steps=0.1,
        save_steps=100,
        per_device_train_batch_size=32,
        train_sampling_strategy="group_by_length",
        save_total_limit=1,
        report_to="none",
        bf16=cpu_multiplies_bf16(),
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    trainer = hf_mpq.MPQTrainer(
        model,
        arguments,
        teacher=study.model(),
        processing_class=study.tokenizer,
        train_dataset=study.task.prepare(study.data["train"], study.tokenizer, study.max_length),
        data_collator=study.task.data_collator(study.tokenizer),
    )
    trainer.train(resume_from_checkpoint=(args.output_dir / "stages.json").exists())
    trainer.save_packed(args.output_dir / "packed")
    packed = study.task.auto_class.from_pretrained(args.output_dir / "packed")
    found = {**study.judge(packed), "megabytes": hf_mpq.size_report(packed).total_bytes / 1e6, **shapes(packed)}
    (args.output_dir / "results.json").write_text(json.dumps(found, indent=2))
    print(found)


def halved(space: PrecisionSpace, scores: Mapping[str, Tensor], share: float) -> Assignment:
    """0 bits for the least important share of heads (query, key and value together) and of feed-forward rows, layer by
    layer; every other matrix as it is."""
    bits = {name: torch.full((spec.layout.count,), spec.candidates[-1]) for name, spec in space.weights.items()}
    for name in scores:
        if name.endswith("query"):
            names = [name.removesuffix("query") + part for part in ("query", "key", "value")]
        elif name.endswith("intermediate.dense"):
            names = [name]
        else:
            continue
        hurt = torch.stack([scores[one][:, 0] for one in names]).sum(0)
        for one in names:
            bits[one][hurt.argsort()[: round(share * len(hurt))]] = 0
    return Assignment({name: MatrixAssignment(tuple(one.tolist())) for name, one in bits.items()})


def shapes(model: nn.Module) -> dict[str, int]:
    """Heads and feed-forward rows of the first layer that are left."""
    layer = hf_mpq.runtime.compact(model).bert.encoder.layer[0]
    return {"heads": layer.attention.self.query.out_features // 32, "rows": layer.intermediate.dense.out_features}


if __name__ == "__main__":
    main()
