"""Prune a pretrained encoder once, on unlabelled text; what comes out is a plain float checkpoint with zeros.

    accelerate launch recipes/pretrain_sparse.py --model_name_or_path bert-base-uncased --text corpus.txt \\
        --output_dir out/sparse --learning_rate 1e-4 --max_steps 100000
    accelerate launch recipes/run_glue.py recipes/methods/prune-ofa.yaml recipes/tasks/sst2.yaml \\
        --model_name_or_path out/sparse/sparse --output_dir out/sparse-sst2

Text files have one text a line. Models with a masked-language head go on with that; `--bare` is for encoders without
one, such as sentence embedders, which keep their hidden states and value relations instead. A run that was interrupted
goes on when the same command is given again.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_mpq import MPQConfig, MPQTrainer, MPQTrainingArguments
from hf_mpq.nn.walk import matrices

METHOD, STAGE = "prune-ofa-pretrain", "prune"
BARE = {"hidden-states": {}, "value-relations": {}}
"""What a model without a head is distilled from."""


@dataclass
class SparseArguments:
    """What is pruned, and on what."""

    model_name_or_path: str = field(metadata={"help": "A pretrained float model."})
    text: list[str] = field(metadata={"help": "Text files, one text a line."})
    density: float = field(default=0.1, metadata={"help": "Share of the encoder's weights that is kept."})
    bare: bool = field(default=False, metadata={"help": "Prune the encoder alone, without a head."})
    max_length: int = field(default=128, metadata={"help": "Tokens after which texts are cut."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are hidden."})


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Prune, and write the sparse checkpoint to `<output_dir>/sparse`, with what it keeps in `results.json`."""
    parser = HfArgumentParser((SparseArguments, MPQTrainingArguments))
    given, training = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv)
    tokenizer = AutoTokenizer.from_pretrained(given.model_name_or_path)
    with training.main_process_first(desc="tokenization"):
        rows = rows_of(given.text, tokenizer, given.max_length)
    config = MPQConfig(method=METHOD, mask={"name": "element", "density": given.density})
    model = (AutoModel if given.bare else AutoModelForMaskedLM).from_pretrained(
        given.model_name_or_path, quantization_config=config
    )
    if given.bare:
        changes = (training.stages or {}).get(STAGE, {})
        training.stages = {**(training.stages or {}), STAGE: {"objectives": BARE, **changes}}
    trainer = MPQTrainer(
        model,
        training,
        train_dataset=rows,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer)
        if given.bare
        else DataCollatorForLanguageModeling(tokenizer, mlm_probability=given.mlm_probability),
    )
    trainer.train(resume_from_checkpoint=(Path(training.output_dir) / "stages.json").exists())
    trainer.save_float(Path(training.output_dir) / "sparse")
    results = {"density": density_of(trainer.model), "rows": len(rows)}
    if trainer.is_world_process_zero():
        (Path(training.output_dir) / "results.json").write_text(json.dumps(results, indent=2))
        print("  ".join(f"{name} {value:.4g}" for name, value in results.items()))
    return results


def rows_of(files: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Every line that is not empty, as tokens."""
    lines = [line for file in files for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise SystemExit(f"{', '.join(files)}: no text; one text a line is read")
    texts = Dataset.from_dict({"text": lines})
    return texts.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=max_length),
        batched=True,
        remove_columns=["text"],
    )


def density_of(model: PreTrainedModel) -> float:
    """Share of the masked matrices' weights that is kept."""
    kept = [layer.program.mask.keep for _, layer in matrices(model) if layer.program.mask is not None]
    return sum(int(keep.sum()) for keep in kept) / max(sum(keep.numel() for keep in kept), 1)


if __name__ == "__main__":
    main()
