"""Families that are others with some names, or some of the arithmetic, changed."""

from dataclasses import replace

from .family import Family, LayerNames
from .originals import BERT, DEBERTA_V2, ROBERTA

_EMBEDDINGS = BERT.embeddings
_PRE_NORM_LAYER = replace(BERT.names, norms=None)

ERNIE = replace(BERT, embeddings=(*_EMBEDDINGS, "embeddings.task_type_embeddings"))
BERT_GENERATION = replace(BERT, embeddings=_EMBEDDINGS[:2], projections=())
SPLINTER = replace(
    BERT,
    projections=tuple(
        f"splinter_qass.{part}"
        for part in (
            *(f"{kind}_transform.dense" for kind in ("query_start", "query_end", "start", "end")),
            "start_classifier",
            "end_classifier",
        )
    ),
)
LAYOUTLM = replace(
    BERT,
    embeddings=(*_EMBEDDINGS, *(f"embeddings.{side}_position_embeddings" for side in "xyhw")),
    inputs=(("bbox", 4),),
)
MARKUPLM = replace(
    BERT,
    embeddings=(
        *_EMBEDDINGS,
        *(
            f"embeddings.xpath_embeddings.xpath_{part}_sub_embeddings.{depth}"
            for part in ("tag", "subs")
            for depth in range(50)  # of the published models; deeper ones stay float
        ),
    ),
    projections=(
        *BERT.projections,
        "embeddings.xpath_embeddings.xpath_unitseq2_inner",
        "embeddings.xpath_embeddings.inner2emb",
    ),
    resizable=False,
    inputs=(("xpath_tags_seq", "max_depth"), ("xpath_subs_seq", "max_depth")),
)
ROC_BERT = replace(
    BERT,
    embeddings=(*_EMBEDDINGS, "embeddings.shape_embed", "embeddings.pronunciation_embed"),
    projections=(*BERT.projections, "embeddings.map_inputs_layer"),
    resizable=False,
    inputs=(("input_shape_ids", None), ("input_pronunciation_ids", None)),
)
PRE_NORM_ROBERTA = replace(ROBERTA, names=_PRE_NORM_LAYER)
MEGATRON_BERT = replace(BERT, names=_PRE_NORM_LAYER, interface=False)
ESM = replace(ROBERTA, names=_PRE_NORM_LAYER, embeddings=_EMBEDDINGS[:2], activation="gelu", rotary=True)
LONGFORMER = replace(
    ROBERTA,
    names=replace(
        _PRE_NORM_LAYER,
        extra=("attention.self.query_global", "attention.self.key_global", "attention.self.value_global"),
    ),
    plain_attention=False,
    removable_heads=False,
    interface=False,
    operands=False,
    resizable=False,
    untraced="it cuts a text into windows in Python, by its length",
)
_FUSED = "attention.self.in_proj"
DEBERTA = replace(
    DEBERTA_V2,
    names=replace(
        DEBERTA_V2.names,
        query=_FUSED,
        key=_FUSED,
        value=_FUSED,
        extra=("attention.self.pos_proj", "attention.self.pos_q_proj"),
    ),
    by_head=True,
    plain_attention=False,
    removable_heads=False,
    operands=False,
    resizable=False,
)
_GATED_LAYER = LayerNames(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.o_proj",
    up="mlp.gate_proj",
    gate="mlp.up_proj",
    down="mlp.down_proj",
    attention="self_attn",
)
NOMIC_BERT = Family(
    layer=r"layers\.\d+",
    names=_GATED_LAYER,
    embeddings=("embeddings.word_embeddings", "embeddings.token_type_embeddings"),
    projections=("pooler.dense", "cls.predictions.transform.dense", "lm_head.dense"),
    rotary=True,
)
JINA = replace(
    NOMIC_BERT,
    names=replace(_GATED_LAYER, up="mlp.fc1", gate=None, down="mlp.fc2"),
    projections=("pooler.dense", "classifier.dense", "lm_head.dense"),
)
EUROBERT = replace(
    NOMIC_BERT,
    embeddings=("embed_tokens",),
    projections=("dense",),
    key_value_heads="num_key_value_heads",
    resizable=False,
)
ULTRABERT = replace(EUROBERT, projections=("head.linear1", "head.linear2"))
QWEN3 = replace(EUROBERT, projections=())
GEMMA3 = replace(QWEN3, activation="hidden_activation")
T5 = Family(
    layer=r"(?:encoder\.)?block\.\d+",
    names=LayerNames(
        query="layer.0.SelfAttention.q",
        key="layer.0.SelfAttention.k",
        value="layer.0.SelfAttention.v",
        output="layer.0.SelfAttention.o",
        up="layer.1.DenseReluDense.wi",
        down="layer.1.DenseReluDense.wo",
        attention="layer.0.SelfAttention",
    ),
    embeddings=(),
    activation="dense_act_fn",
    removable_heads=False,
    operands=False,
    resizable=False,
    initialised_by_name=True,
    rows="d_ff",
)
T5 = replace(
    T5,
    variant=(
        "is_gated_act",
        replace(T5, names=replace(T5.names, up="layer.1.DenseReluDense.wi_0", gate="layer.1.DenseReluDense.wi_1")),
    ),
)

VARIATIONS: dict[str, Family] = {
    "camembert": ROBERTA,
    "data2vec-text": ROBERTA,
    "ernie": ERNIE,
    "bert-generation": BERT_GENERATION,
    "splinter": SPLINTER,
    "layoutlm": LAYOUTLM,
    "markuplm": MARKUPLM,
    "roc_bert": ROC_BERT,
    "xlm-roberta-xl": PRE_NORM_ROBERTA,
    "roberta-prelayernorm": PRE_NORM_ROBERTA,
    "megatron-bert": MEGATRON_BERT,
    "esm": ESM,
    "longformer": LONGFORMER,
    "deberta": DEBERTA,
    "nomic_bert": NOMIC_BERT,
    "gte": NOMIC_BERT,
    "jina_embeddings_v3": JINA,
    "eurobert": EUROBERT,
    "ultrabert": ULTRABERT,
    "qwen3": QWEN3,
    "gemma3_text": GEMMA3,
    "t5": T5,
}
