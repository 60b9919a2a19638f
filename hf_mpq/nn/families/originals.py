"""Families whose layers are each of their own kind."""

from .family import Family, LayerNames

_BERT_LAYER = LayerNames(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    output="attention.output.dense",
    up="intermediate.dense",
    down="output.dense",
    attention="attention.self",
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
)
_EMBEDDINGS = ("embeddings.word_embeddings", "embeddings.position_embeddings", "embeddings.token_type_embeddings")

BERT = Family(
    layer=r"encoder\.layer\.\d+",
    names=_BERT_LAYER,
    embeddings=_EMBEDDINGS,
    projections=("pooler.dense", "cls.predictions.transform.dense"),
)
ROBERTA = Family(
    layer=r"encoder\.layer\.\d+",
    names=_BERT_LAYER,
    embeddings=_EMBEDDINGS,
    projections=("pooler.dense", "classifier.dense", "lm_head.dense"),
)
ELECTRA = Family(
    layer=r"encoder\.layer\.\d+",
    names=_BERT_LAYER,
    embeddings=_EMBEDDINGS,
    projections=("embeddings_project", "classifier.dense", "generator_predictions.dense"),
)
DISTILBERT = Family(
    layer=r"transformer\.layer\.\d+",
    names=LayerNames(
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        output="attention.out_lin",
        up="ffn.lin1",
        down="ffn.lin2",
        attention="attention",
        norms=("sa_layer_norm", "output_layer_norm"),
    ),
    embeddings=("embeddings.word_embeddings", "embeddings.position_embeddings"),
    projections=("pre_classifier", "vocab_transform"),
    activation="activation",
    rows="hidden_dim",
)
ALBERT = Family(
    layer=r"encoder\.albert_layer_groups\.\d+\.albert_layers\.\d+",
    names=LayerNames(
        query="attention.query",
        key="attention.key",
        value="attention.value",
        output="attention.dense",
        up="ffn",
        down="ffn_output",
        attention="attention",
        norms=("attention.LayerNorm", "full_layer_layer_norm"),
    ),
    embeddings=_EMBEDDINGS,
    projections=("encoder.embedding_hidden_mapping_in", "pooler", "predictions.dense"),
    shared_layers="num_hidden_groups",
)
DEBERTA_V2 = Family(
    layer=r"encoder\.layer\.\d+",
    names=LayerNames(
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        output="attention.output.dense",
        up="intermediate.dense",
        down="output.dense",
        attention="attention.self",
        extra=("attention.self.pos_key_proj", "attention.self.pos_query_proj"),
    ),
    embeddings=_EMBEDDINGS,
    projections=(
        "embeddings.embed_proj",
        "pooler.dense",
        "cls.predictions.transform.dense",
        "lm_predictions.lm_head.dense",
    ),
    relative_positions=True,
    interface=False,
)
MPNET = Family(
    layer=r"encoder\.layer\.\d+",
    names=LayerNames(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        output="attention.attn.o",
        up="intermediate.dense",
        down="output.dense",
        attention="attention.attn",
    ),
    embeddings=("embeddings.word_embeddings", "embeddings.position_embeddings"),
    projections=("pooler.dense", "classifier.dense", "lm_head.dense"),
    removable_heads=False,
    interface=False,
)
MODERNBERT = Family(
    layer=r"layers\.\d+",
    names=LayerNames(
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        output="attn.Wo",
        up="mlp.Wi",
        down="mlp.Wo",
        attention="attn",
    ),
    embeddings=("embeddings.tok_embeddings",),
    projections=("head.dense",),
    activation="hidden_activation",
    gated=True,
    rotary=True,
)
