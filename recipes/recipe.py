"""What `run_glue.py`, `run_squad.py` and `run_ner.py` do, step by step."""

import json
import sys
from argparse import Action
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from accelerate import PartialState
from transformers import AutoTokenizer, HfArgumentParser, PreTrainedModel

from hf_mpq import MPQConfig, MPQTrainer, MPQTrainingArguments, set_precision, size_report
from hf_mpq.nn.precision import nested_storages
from hf_mpq.tasks import TASKS, Task, evaluate_model, get_task, subset
from hf_mpq.training import fine_tune

FINE_TUNING = "fine_tuning.json"
"""How the float model beside it was fine-tuned."""
OF_FINE_TUNING = (
    "task",
    "model_name_or_path",
    "max_length",
    "max_train_samples",
    "finetune_epochs",
    "finetune_learning_rate",
)


class Several(Action):
    """Values of an option that may be given several times; they replace those of the YAML files."""

    def __init__(self, **options):
        super().__init__(**options)
        self.given: list[str] = []

    def __call__(self, parser, namespace, values, option_string=None):
        self.given += values
        setattr(namespace, self.dest, self.given)


@dataclass
class RecipeArguments:
    """What is compressed, and how."""

    task: str = field(metadata={"help": f"One of {', '.join(TASKS)}."})
    model_name_or_path: str = field(
        metadata={"help": "A fine-tuned float model; or a pretrained one, with --finetune_epochs."}
    )
    teacher_name_or_path: str | None = field(
        default=None, metadata={"help": "A float model to distil from; default: the model itself."}
    )
    method: str | None = field(default=None, metadata={"help": "A published system, or 'mpq' or 'uniform'."})
    budget: list[str] | None = field(
        default=None,
        metadata={"help": "Such as 2.5bits, 12MB or encoder:0.1x; several are met together.", "action": Several},
    )
    config: dict | str | None = field(
        default=None, metadata={"help": 'Further fields of MPQConfig, such as {"bits": [2, 3, 4, 8]}.'}
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder with one folder per task; default: the Hub."})
    max_length: int = field(default=128, metadata={"help": "Tokens after which inputs are cut, or windows begin."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Use a random part of the training set."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use the first rows of the dev set."})
    finetune_epochs: float = field(default=0.0, metadata={"help": "Fine-tune the float model first, so long."})
    finetune_learning_rate: float = field(default=1e-4, metadata={"help": "Of the fine-tuning."})

    def __post_init__(self):
        try:
            self.config = json.loads(self.config) if isinstance(self.config, str) else self.config or {}
        except json.JSONDecodeError as error:
            raise SystemExit(
                f"--config is JSON, such as '{{\"bits\": [2, 4]}}'; got {self.config!r}: {error}"
            ) from error


def read_arguments(kind: str, argv: list[str]) -> tuple[RecipeArguments, MPQTrainingArguments]:
    """Arguments from YAML files, later ones first in rank, and from the command line, which wins over them."""
    parser = HfArgumentParser((RecipeArguments, MPQTrainingArguments))
    files = [Path(argument) for argument in argv if argument.endswith((".yaml", ".yml"))]
    given = {key: value for file in files for key, value in _settings(file).items()}
    known = {action.dest for action in parser._actions}
    unknown = sorted(set(given) - known)
    if unknown:
        raise SystemExit(f"{', '.join(map(str, files))}: unknown arguments {unknown}")
    for action in parser._actions:
        action.required = action.required and action.dest not in given
    parser.set_defaults(**given)
    recipe, training = parser.parse_args_into_dataclasses([one for one in argv if not one.endswith((".yaml", ".yml"))])
    if recipe.task not in TASKS or TASKS[recipe.task].kind != kind:
        names = [name for name, task in TASKS.items() if task.kind == kind]
        raise SystemExit(f"this recipe is for {kind}: {', '.join(names)}; not for task {recipe.task!r}")
    return recipe, training


def _settings(file: Path) -> dict:
    """What a YAML file says."""
    if not file.is_file():
        raise SystemExit(f"there is no file {file} here; those that come with hf_mpq are copied by `hf-mpq recipes cp`")
    settings = yaml.safe_load(file.read_text())
    if not isinstance(settings, dict):
        raise SystemExit(f"{file} has no lines such as `learning_rate: 1.0e-4`")
    return settings


def float_checkpoint(task: Task, recipe: RecipeArguments, training: MPQTrainingArguments, rows, tokenizer) -> str:
    """Folder or name of the float model; fine-tuned first where that is asked for and not done yet."""
    if not recipe.finetune_epochs:
        return recipe.model_name_or_path
    folder, state = Path(training.output_dir) / "float", PartialState()
    asked = {name: getattr(recipe, name) for name in OF_FINE_TUNING} | {"seed": training.seed}
    if (folder / FINE_TUNING).exists():
        _check_same(json.loads((folder / FINE_TUNING).read_text()), asked, folder)
    if not (folder / "model.safetensors").exists():
        model = task.auto_class.from_pretrained(recipe.model_name_or_path, **task.model_kwargs())
        fine_tune(
            model,
            rows,
            task.data_collator(tokenizer),
            training.output_dir,
            seed=training.seed,
            num_train_epochs=recipe.finetune_epochs,
            learning_rate=recipe.finetune_learning_rate,
            per_device_train_batch_size=training.per_device_train_batch_size,
            use_cpu=training.use_cpu,
            disable_tqdm=training.disable_tqdm,
        )
        if state.is_main_process:
            partial = folder.with_name("float.partial")
            model.save_pretrained(partial)
            (partial / FINE_TUNING).write_text(json.dumps(asked, indent=2))
            partial.replace(folder)
        state.wait_for_everyone()
    return str(folder)


def _check_same(then: dict, now: dict, folder: Path) -> None:
    """Raise SystemExit where a float model was fine-tuned otherwise than is asked for now."""
    different = [f"{name} was {then.get(name)} and is now {one}" for name, one in now.items() if then.get(name) != one]
    if different:
        words = "; ".join(different)
        raise SystemExit(f"{folder} was fine-tuned otherwise: {words}. Give what it was, or another --output_dir")


def run(kind: str, argv: list[str] | None = None) -> dict[str, float]:
    """Quantize a model, train it through its method's stages, pack it, and score what was packed.

    A run that was interrupted goes on when the same command is given again. `output_dir` ends up with the packed model
    in `packed/`, and with `results.json`.

    Args:
        kind: of the task.
        argv: YAML files and arguments; by default those of the command line.
    """
    recipe, training = read_arguments(kind, sys.argv[1:] if argv is None else argv)
    task, tokenizer = get_task(recipe.task), AutoTokenizer.from_pretrained(recipe.model_name_or_path)

    data = task.load(recipe.data_dir)
    examples, dev = data["train"], data["validation"]
    if recipe.max_train_samples is not None:
        examples = subset(examples, recipe.max_train_samples, seed=0)
    if recipe.max_eval_samples is not None:
        dev = dev.select(range(min(recipe.max_eval_samples, len(dev))))
    with training.main_process_first(desc="tokenization"):
        rows = task.prepare(examples, tokenizer, recipe.max_length)
        dev_rows = task.prepare_evaluation(dev, tokenizer, recipe.max_length)

    checkpoint = float_checkpoint(task, recipe, training, rows, tokenizer)
    config = MPQConfig(method=recipe.method, budget=recipe.budget, **recipe.config)
    model = task.auto_class.from_pretrained(checkpoint, quantization_config=config)
    teacher = task.auto_class.from_pretrained(recipe.teacher_name_or_path) if recipe.teacher_name_or_path else None

    trainer = MPQTrainer(
        model,
        training,
        teacher=teacher,
        train_dataset=rows,
        eval_dataset=dev_rows,
        processing_class=tokenizer,
        data_collator=task.data_collator(tokenizer),
        compute_metrics=task.metric_function(dev, dev_rows),
    )
    trainer.train(resume_from_checkpoint=(Path(training.output_dir) / "stages.json").exists())

    packed = Path(training.output_dir) / "packed"
    trainer.save_packed(packed)
    results = {}
    if trainer.is_world_process_zero():
        shipped = task.auto_class.from_pretrained(packed).to(training.device)
        report = size_report(shipped)
        results = {
            **evaluate_model(shipped, task, dev, tokenizer, recipe.max_length),
            "encoder_bits": report.average_bits,
            "megabytes": report.total_bytes / 1e6,
        }
        for bits in _lower_precisions(shipped):
            scores = evaluate_model(set_precision(shipped, bits), task, dev, tokenizer, recipe.max_length)
            results |= {f"{name} at {bits} bits": value for name, value in scores.items()}
        (Path(training.output_dir) / "results.json").write_text(json.dumps(results, indent=2))
        print(report)
        print("  ".join(f"{name} {value:.4g}" for name, value in results.items() if isinstance(value, int | float)))
    return results


def _lower_precisions(packed: PreTrainedModel) -> list[int]:
    """What a nested model serves besides the highest, descending."""
    served = [set(one.served) for one in nested_storages(packed).values()]
    return sorted(set.intersection(*served), reverse=True)[1:] if served else []
