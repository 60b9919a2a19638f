"""The model that is trained is the user's own, with what was done to it."""

import copy
import json

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

import hf_mpq
from hf_mpq import MPQConfig
from hf_mpq.nn.walk import matrices
from hf_mpq.training import TrainingStopped
from hf_mpq.weights.masks import MASKS
from tests.tiny import HEADS, MOST, tiny_config, tiny_model
from tests.training.runs import collate, quantized, resumable, sentences, trainer

SHORT = {"max_steps": 6, "save_strategy": "no", "selection_examples": 8, "selection_steps": 1}


def edited(method, **config):
    """A model with frozen layers, no dropout, a hook and an attribute, and what the hook saw."""
    model, seen = quantized(method, **config), []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model.bert.embeddings.requires_grad_(False)
    model.bert.encoder.layer[0].requires_grad_(False)
    model.bert.pooler.register_forward_hook(lambda *_: seen.append(1))
    model.note = "mine"
    return model, seen


@pytest.mark.parametrize(
    ("method", "config"),
    [("uniform", {}), ("mpq", {"budget": "3bits"}), ("aq-bert", {"budget": "3bits", "bits": (2, 4)})],
)
def test_what_was_done_to_a_model_stays_and_the_result_ends_up_in_it(method, config, tmp_path):
    model, seen = edited(method, **config)
    frozen = {name: one.clone() for name, one in model.named_parameters() if not one.requires_grad}
    free = {name: one.clone() for name, one in model.named_parameters() if one.requires_grad}
    run = trainer(model, tmp_path, eval_dataset=sentences(8), bf16=True, **SHORT)
    run.train()
    assert run.model is model and seen and model.note == "mine"
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items() if name in after)
    assert not any(after[name].requires_grad for name in frozen if name in after)
    assert any(not torch.equal(after[name], value) for name, value in free.items() if name in after)
    assert not any(module.p for module in model.modules() if isinstance(module, nn.Dropout))
    assert "forward" not in vars(model)  # which an evaluation in mixed precision sets
    saved = HEADS["sequence"].from_pretrained(next(tmp_path.glob(f"{len(run.plan)}-*/model")))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.state_dict().items())
    hf_mpq.pack(model)


def test_a_search_leaves_frozen_gates_where_they_started(tmp_path):
    model = quantized("aq-bert", budget="3bits")
    layer = model.bert.encoder.layer[0].output.dense
    layer.requires_grad_(False)
    gate = layer.program.gate
    trainer(model, tmp_path, num_train_epochs=2, save_strategy="no").train()
    assert not layer.program.gate.searching and not gate.logits.any()


def test_another_set_of_frozen_parameters_is_another_run(tmp_path):
    trainer(quantized("uniform"), tmp_path, max_steps=2).train()
    other = quantized("uniform")
    other.classifier.requires_grad_(False)
    with pytest.raises(ValueError, match=r'frozen_parameters was "0" and is now "2, digest \w+"'):
        trainer(other, tmp_path, max_steps=2).train(resume_from_checkpoint=True)


class Stop(TrainerCallback):
    def __init__(self, step, stage):
        self.step, self.stage = step, stage

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and args.output_dir.endswith(self.stage):
            control.should_training_stop = True


def test_a_stopped_run_leaves_the_last_finished_stage_in_the_model_without_hooks(tmp_path):
    model = quantized("mpq", budget="3bits")
    hooks = lambda: sum(len(module._forward_hooks) for module in model.modules())  # noqa: E731
    before = hooks()
    with pytest.raises(TrainingStopped):
        trainer(model, tmp_path, callbacks=[Stop(2, "2-qat")], **SHORT).train()
    search = HEADS["sequence"].from_pretrained(tmp_path / "1-search/model").state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in search.items())
    assert any(layer.program.gate.searching for _, layer in matrices(model))
    assert hooks() == before


def test_the_same_trainer_goes_on_as_a_new_process_would(tmp_path):
    """What a stage left in the model's modules beside its state does not reach the next one."""
    config = {"budget": "3bits", "activation": "static"}
    resumable(quantized("mpq", **config), tmp_path / "whole", num_train_epochs=1).train()
    run = resumable(quantized("mpq", **config), tmp_path / "parts", num_train_epochs=1, callbacks=[Stop(4, "2-qat")])
    with pytest.raises(TrainingStopped):
        run.train()
    run.pop_callback(Stop)
    run.train(resume_from_checkpoint=True)
    ours, theirs = (HEADS["sequence"].from_pretrained(tmp_path / name / "2-qat/model") for name in ("parts", "whole"))
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert all(torch.equal(value, run.model.state_dict()[name]) for name, value in theirs.state_dict().items())


class Weighted(BertForSequenceClassification):
    """A class that is not made of its config alone."""

    def __init__(self, config, scale):
        super().__init__(config)
        self.scale = scale

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        outputs = super().forward(input_ids, attention_mask, labels=labels)
        outputs.logits = outputs.logits * self.scale
        return outputs


def test_a_class_with_arguments_of_its_own_is_trained(tmp_path):
    model = hf_mpq.quantize(Weighted(tiny_config("bert"), 2.0), MPQConfig(method="mpq", budget="3bits", groups=8))
    trainer(model, tmp_path, **SHORT).train()
    assert model.scale == 2.0


def test_files_with_the_first_names_of_norms_are_trained(tmp_path):
    """bert-base-uncased's own, and what transformers saves of models that were loaded from it."""
    from safetensors.torch import load_file, save_file

    tiny_model("bert").save_pretrained(tmp_path / "float")
    file = tmp_path / "float/model.safetensors"
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in load_file(file).items()
    }
    save_file(old, file, metadata={"format": "pt"})
    config = MPQConfig(method="uniform", groups=8, modules_to_not_convert=[".*LayerNorm"])
    model = HEADS["sequence"].from_pretrained(tmp_path / "float", quantization_config=config)
    trainer(model, tmp_path / "run", callbacks=[Stop(2, "1-qat")], max_steps=2).train()


@pytest.mark.parametrize("family", MOST)
def test_the_state_of_every_family_goes_to_disk_and_back(family, tmp_path):
    from hf_mpq.training.run.students import Students

    model = quantized("mpq", family, "masked", budget="3bits")
    students = Students(tmp_path, model)
    students.save(model, "0-start")
    before = copy.deepcopy(model.state_dict())
    found = hf_mpq.assignment_of(model)
    hf_mpq.fix(model, found)
    students.save(model, "1-qat/model")
    closed = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for stage, expected in ((None, before), ("1-qat", closed), (None, before)):
        students.start("previous", stage, None)
        assert model.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    students.start("previous", "1-qat", None)
    assert hf_mpq.assignment_of(model) == found and model.config.quantization_config.assignment is not None


# The teacher


@pytest.mark.parametrize("mask", [*MASKS, None])
def test_the_default_teacher_is_the_float_model(mask, tmp_path):
    options = {"element": {"density": 0.1}, "n:m": {"kept": 1, "block": 4}}
    plain = tiny_model("bert", num_hidden_layers=1)
    model = quantized(None, bits=2, mask=mask, mask_options=options.get(mask, {}))
    run = trainer(model, tmp_path, max_steps=1, save_strategy="no")
    run.train()
    batch = collate(list(sentences(4)))
    with torch.no_grad():
        torch.testing.assert_close(run._teacher(**batch).logits, plain.eval()(**batch).logits)
    assert "_preferences" not in vars(run)


def test_scores_and_teacher_are_of_one_float_copy(tmp_path):
    run = trainer(quantized("mpq", budget="3bits"), tmp_path, **SHORT)
    run.train()
    assert run._teacher is run._float_model and run._preferences._engine.model is run._teacher
    given = trainer(quantized("mpq", budget="3bits"), tmp_path / "given", teacher=tiny_model("bert"), **SHORT)
    given.train()
    assert "_float_model" not in vars(given)


def test_a_teacher_that_is_the_student_is_refused(tmp_path):
    model = tiny_model("bert")
    hf_mpq.quantize(model, MPQConfig(bits=4, groups=8))
    with pytest.raises(ValueError, match=r"the teacher shares parameters with the model.*copy\.deepcopy"):
        trainer(model, tmp_path, teacher=model)


def test_no_token_of_the_hub_is_written(tmp_path):
    run = trainer(quantized("uniform"), tmp_path, max_steps=2, hub_token="hf_secret")
    run.train()
    run.save_model(tmp_path / "saved")
    files = [*tmp_path.rglob("training_args.bin")]
    assert len(files) >= 2 and run.args.hub_token == "hf_secret"
    assert not any(b"hf_secret" in file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert json.loads((tmp_path / "stages.json").read_text())["finished"]


def test_config_edits_stay(tmp_path):
    model = quantized("uniform")
    model.config.label2id = {"no": 0, "yes": 1}
    trainer(model, tmp_path, max_steps=1, save_strategy="no").train()
    assert model.config.label2id == {"no": 0, "yes": 1} and isinstance(model.config, BertConfig)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_models_of_half_precision_are_taught_by_their_float_selves(dtype, tmp_path):
    """As `from_pretrained` gives them of a checkpoint that is stored so."""
    model = hf_mpq.quantize(tiny_model("bert", "masked").to(dtype), MPQConfig(method="uniform", groups=8))
    run = trainer(model, tmp_path, train_dataset=sentences(16, "masked"), max_steps=2, save_strategy="no")
    run.train()
    assert run._teacher.dtype == model.dtype == torch.float32
    assert {one.dtype for one in run._teacher.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_trained_in_single(dtype, tmp_path, capsys):
    """As a checkpoint of that type is loaded: steps of the usual size are lost in its weights."""
    tiny_model("bert").to(dtype).save_pretrained(tmp_path / "half")
    found = []
    for name in (None, torch.float32):
        given = {} if name is None else {"dtype": name}
        config = MPQConfig(method="uniform", bits=4, groups=8)
        model = HEADS["sequence"].from_pretrained(tmp_path / "half", quantization_config=config, **given)
        run = trainer(model, tmp_path / str(name), disable_tqdm=False, learning_rate=2e-5, **SHORT)
        said = capsys.readouterr().err
        assert (f"weights in {str(dtype)[6:]} are trained in float32" in said) == (name is None)
        run.train()
        assert str(model.config.dtype).removeprefix("torch.") == "float32"
        found.append(model.state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert all(value.dtype == torch.float32 for value in found[0].values() if value.is_floating_point())


def test_several_labels_are_known_by_the_rows_where_the_config_says_nothing(tmp_path):
    """As transformers knows them in a pass with labels; who only distils has no such pass."""
    rows = sentences().map(lambda row: {"labels": [float(row["labels"]), 0.0, 1.0]})

    def padded(chosen):
        labels = torch.tensor([row["labels"] for row in chosen])
        return {
            **collate([{name: row[name] for name in ("input_ids", "attention_mask")} for row in chosen]),
            "labels": labels,
        }

    found = []
    for kind in (None, "multi_label_classification"):
        model = tiny_model("bert", num_labels=3)
        model.config.problem_type = kind
        hf_mpq.quantize(model, MPQConfig(method="uniform", bits=2, groups=8))
        stages = {"qat": {"objectives": {"soft-labels": {}}}}
        run = trainer(
            model,
            tmp_path / str(kind),
            train_dataset=rows,
            data_collator=padded,
            stages=stages,
            logging_steps=1,
            **SHORT,
        )
        run.train()
        assert model.config.problem_type == "multi_label_classification"
        found.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert found[0] == found[1] and len(found[0]) == 6
