"""Where a stage's examples come from: its epochs, its micro-batches and its search slice."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from datasets import Dataset as TableDataset
from torch import Tensor
from torch.utils.data import Sampler

from .sampling import EpochSampler, Part, SearchBatches, slices


class StageBatches:
    """Epochs and batches for a Trainer whose `model` is a `StageModule` and that has a `strategy` and an `order_seed`.

    Every step is whole: an epoch that ends with less than a step is filled up with its first examples, or ends before
    with `dataloader_drop_last`.
    """

    def set_epoch(self, epoch: int) -> None:
        """Order the examples of an epoch, counted from 0."""
        self.data_collator.epoch = epoch
        if self._sampler is not None:
            self._sampler.set_epoch(epoch)

    def _plan_epochs(self) -> None:
        """How many steps an epoch has, and where its examples come from."""
        args, self._search_steps, self._parts, self._search_rows = self.args, 0, None, None
        self._unit = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
        if not hasattr(self.train_dataset, "__len__"):
            self.steps_per_epoch = args.max_steps
            return
        count, split = len(self.train_dataset), self.strategy.split if self.strategy else None
        if split == "epochs":
            self._plan_split_epochs(count)
            return
        rest = range(count)
        if split == "steps":
            rest, own = slices(count, max(round(count * args.search_fraction), 1), self.order_seed)
            per_step = args.world_size * args.gradient_accumulation_steps
            self._search_batches = SearchBatches(own, self.order_seed, args.train_batch_size, per_step)
        self.steps_per_epoch = (math.floor if args.dataloader_drop_last else math.ceil)(len(rest) / self._unit)
        if not self.steps_per_epoch:
            raise ValueError(
                f"{len(rest)} training examples are less than a step of {self._unit}: use smaller "
                "batches, or leave dataloader_drop_last off"
            )
        self._parts = [Part(rest, self.steps_per_epoch * self._unit)]

    def _plan_split_epochs(self, count: int) -> None:
        """Each epoch ends with the search slice: there is a whole number of them, each as much shorter as needed."""
        args, whole = self.args, count // self._unit
        search = max(round(whole * args.search_fraction), 1)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * whole)
        epochs = max(math.ceil(steps / max(whole, 1) - 1e-9), 1)
        self.steps_per_epoch = steps // epochs
        if min(whole, self.steps_per_epoch) < 2:
            raise ValueError(
                f"{count} training examples, in {steps} steps of {self._unit}, leave no room for a search "
                "slice in every epoch: use smaller batches, more data or more epochs"
            )
        rest, own = slices(count, search * self._unit, self.order_seed)
        self._search_steps = max(round(self.steps_per_epoch * search / whole), 1)
        weight_steps = self.steps_per_epoch - self._search_steps
        self._parts = [Part(rest, weight_steps * self._unit), Part(own, self._search_steps * self._unit)]
        args.max_steps, args.num_train_epochs = -1, epochs

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        if self._parts is None:
            return None
        grouped = self.args.train_sampling_strategy == "group_by_length"
        self._sampler = EpochSampler(self._parts, self.order_seed, self._lengths() if grouped else None, self._unit)
        return self._sampler

    def _lengths(self) -> list[int]:
        data, column = self.train_dataset, self.args.length_column_name
        if isinstance(data, TableDataset) and column in data.column_names:
            return list(data[column])
        names = getattr(self.processing_class, "model_input_names", None) or ["input_ids"]
        return (
            [len(row) for row in data[names[0]]]
            if isinstance(data, TableDataset)
            else [len(data[index][names[0]]) for index in range(len(data))]
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, dict[str, float]]:
        """The micro-batches of a step, and the units of every term over all of them and all processes; none when all
        steps are done, as in a run that is resumed from its last checkpoint."""
        if self.state.global_step >= self.state.max_steps:
            return [], {}
        samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._units = self._total_units(samples)
        self._begun = self.state.global_step if samples else None
        self._micro, self._search_samples, self._search_units = 0, [], {}
        if self._search_batches is not None:
            self._search_samples = [self._search_sample(place) for place in range(len(samples))]
            self._search_units = self._total_units(self._search_samples)
        return samples, self._units

    def _search_sample(self, place: int) -> dict[str, Tensor]:
        """The search batch that goes with a micro-batch, in this process."""
        place = place * self.args.world_size + self.args.process_index
        indices = self._search_batches.at(self.state.global_step, place)
        if self._search_rows is None:
            self._search_rows, self._search_collator = self.train_dataset, self.data_collator
            if isinstance(self.train_dataset, TableDataset):
                self._search_rows = self._remove_unused_columns(self.train_dataset, description="search")
            else:
                self._search_collator = self._get_collator_with_removed_columns(self.data_collator, "search")
        return self._search_collator([self._search_rows[index] for index in indices])

    def _total_units(self, samples: list[Mapping]) -> dict[str, float]:
        found = [self.model.units(batch) for batch in samples]
        if not found:
            return {}
        sums = torch.tensor([float(sum(one[name] for one in found)) for name in found[0]], device=self.args.device)
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        return dict(zip(found[0], sums.tolist()))
