"""Methods that a subclass of MPQTrainer overrides."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, SequentialSampler

from hf_mpq import MPQTrainer
from hf_mpq.training.stage.module import StageModule
from hf_mpq.training.stage.overrides import CALLED
from tests.training.runs import arguments, collate, quantized, sentences

OPTIONS = {"max_steps": 4, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "selection_examples": 0}


def run(kind, folder, method="mpq", **changes):
    made = kind(
        quantized(method, **({"budget": "3bits"} if method == "mpq" else {})),
        arguments(folder, **{**OPTIONS, **changes}),
        train_dataset=sentences(32),
        data_collator=collate,
        eval_dataset=sentences(8),
    )
    made.train()
    return made


def test_every_method_that_stages_know_is_called_in_them_as_itself(tmp_path):
    calls = {name: set() for name in CALLED}

    def noted(name):
        inherited = getattr(MPQTrainer, name)

        @functools.wraps(inherited)
        def method(self, *args, **kwargs):
            calls[name].add(self.args.output_dir.rpartition("/")[2])
            assert not isinstance(self.model, StageModule)
            return inherited(self, *args, **kwargs)

        return method

    plain = run(MPQTrainer, tmp_path / "plain")
    mine = run(type("Mine", (MPQTrainer,), {name: noted(name) for name in CALLED}), tmp_path / "mine")
    missing = {name for name, stages in calls.items() if not {"1-search", "2-qat"} <= stages}
    assert not missing
    ours, theirs = (one.model.state_dict() for one in (mine, plain))
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in ours.items())
    assert mine._hosted is None and mine.args.output_dir == str(tmp_path / "mine")


class Weighted(MPQTrainer):
    """A loss, an order of rows and an optimizer of one's own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = nn.functional.cross_entropy(outputs.logits, inputs["labels"], weight=torch.tensor([1.0, 50.0]))
        return (loss, outputs) if return_outputs else loss

    def get_train_dataloader(self):
        loader = DataLoader(
            self.train_dataset.select_columns(["input_ids", "attention_mask", "labels"]),
            self.args.train_batch_size,
            sampler=SequentialSampler(self.train_dataset),
            collate_fn=self.data_collator,
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model=None):
        if self.optimizer is None:
            self.optimizer = torch.optim.SGD(self.model.parameters(), self.args.learning_rate)
        return self.optimizer


def test_a_loss_loader_and_optimizer_of_ones_own_train_as_by_hand(tmp_path):
    start = quantized("uniform")
    options = {"max_steps": 2, "learning_rate": 0.5, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    for module in start.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    by_hand = {name: one.detach().clone() for name, one in start.named_parameters()}
    made = Weighted(start, arguments(tmp_path, **options), train_dataset=sentences(16), data_collator=collate)
    made.train()
    other = quantized("uniform").eval()
    optimizer = torch.optim.SGD(other.parameters(), 0.5)
    for rows in (range(8), range(8, 16)):
        batch = collate(list(sentences(16).select(rows)))
        labels = batch.pop("labels")
        optimizer.zero_grad()
        nn.functional.cross_entropy(other(**batch).logits, labels, weight=torch.tensor([1.0, 50.0])).backward()
        optimizer.step()
    assert any(not torch.equal(one, by_hand[name]) for name, one in other.named_parameters())
    for name, one in other.named_parameters():
        torch.testing.assert_close(made.model.get_parameter(name), one, atol=1e-5, rtol=1e-4)


def test_a_search_adds_its_penalty_to_a_loss_of_ones_own(tmp_path):
    class Nothing(MPQTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            if return_outputs:
                return super().compute_loss(model, inputs, return_outputs)
            return 0.0 * model(**inputs).logits.sum()

    gates = {}
    for kind in (Nothing, MPQTrainer):
        made = run(
            kind,
            tmp_path / kind.__name__,
            eval_strategy="no",
            max_steps=8,
            logging_steps=1,
            stages={"search": {"strategy_options": {"start": "zeros"}}},
        )
        gates[kind] = [row["loss_penalty"] for row in made.state.log_history if "loss_penalty" in row]
    assert gates[Nothing] and all(value > 0 for value in gates[Nothing])


def test_more_can_be_added_to_the_stages_own_loss(tmp_path):
    class More(MPQTrainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True)
            loss = loss + outputs.logits.square().mean()
            return (loss, outputs) if return_outputs else loss

    losses = [run(kind, tmp_path / kind.__name__, "uniform").state.log_history[-2] for kind in (MPQTrainer, More)]
    assert losses[0].keys() == losses[1].keys()


@pytest.mark.parametrize("name", ["_inner_training_loop", "_prepare_inputs", "get_batch_samples", "_save"])
def test_what_stages_do_not_call_is_refused_by_name(name, tmp_path):
    kind = type("Mine", (MPQTrainer,), {name: lambda self, *args: None})
    with pytest.raises(ValueError, match=f"Mine overrides {name}, which stages do not call; what they call: compute_"):
        run(kind, tmp_path)


def test_what_is_set_on_a_trainer_counts_as_overridden(tmp_path):
    made = MPQTrainer(quantized(), arguments(tmp_path, max_steps=2), train_dataset=sentences(16), data_collator=collate)
    inherited, models = made.compute_loss, []

    def compute_loss(model, *args, **kwargs):
        models.append(made.model)
        return inherited(model, *args, **kwargs)

    made.compute_loss = compute_loss
    made.train()
    assert models and all(model is made.model for model in models)
    made.get_batch_samples = made.get_batch_samples
    with pytest.raises(ValueError, match="MPQTrainer overrides get_batch_samples, which stages do not call"):
        made.train(resume_from_checkpoint=True)
