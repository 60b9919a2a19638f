"""Packed models under accelerate: offloaded, or spread over devices and the disk."""

import pytest
import torch
from accelerate import cpu_offload, disk_offload

import hf_mpq
from tests.plugin.models import close, reload, stored_model
from tests.tiny import outputs, tiny_model

CPU = torch.device("cpu")
PARTS = {
    "sequence": {"bert.embeddings": "cpu", "bert.encoder": "disk", "bert.pooler": "cpu", "classifier": "cpu"},
    "masked": {"bert.embeddings": "cpu", "bert.encoder": "disk", "cls": "cpu"},
}


@pytest.mark.parametrize("head", ["bare", "sequence", "masked"])
def test_offloading_changes_nothing(head, tmp_path):
    """The anchor of a packed layer is no weight: nobody looks for it in a state dict."""
    model = stored_model("packed", head=head)
    before = outputs(model)
    model.save_pretrained(tmp_path / "packed")
    close(before, outputs(cpu_offload(reload(tmp_path / "packed", head), CPU)), 1e-6)
    close(before, outputs(disk_offload(reload(tmp_path / "packed", head), tmp_path / "a", CPU)), 1e-6)
    whole = [{"": "disk"}] if float_runs_from_the_disk(head, tmp_path / "float") else []
    for number, places in enumerate([{"": "cpu"}, "auto", *whole, *([PARTS[head]] if head in PARTS else [])]):
        one = reload(tmp_path / "packed", head, device_map=places, offload_folder=tmp_path / str(number))
        close(before, outputs(one), 1e-6)
        assert one.dtype == torch.float32 and one.device.type in ("cpu", "meta")


def float_runs_from_the_disk(head, folder) -> bool:
    """Not with an old transformers, where biases of heads stay on no device."""
    model = tiny_model("bert", head)
    model.save_pretrained(folder)
    try:
        outputs(type(model).from_pretrained(folder, device_map={"": "disk"}, offload_folder=folder / "off"))
    except RuntimeError as error:
        assert "meta" in str(error)
        return False
    return True


@pytest.mark.parametrize("places", [{"": "disk"}, PARTS["sequence"]], ids=["all", "encoder"])
def test_codes_stay_off_the_disk(places, tmp_path):
    stored_model("packed").save_pretrained(tmp_path / "packed")
    with pytest.raises(ValueError, match="load without offload_buffers=True"):
        reload(tmp_path / "packed", device_map=places, offload_folder=tmp_path / "off", offload_buffers=True)


def test_a_table_that_two_layers_read_stays(tmp_path):
    """Never a decoder of what is not there."""
    model = hf_mpq.pack(stored_model("trainable", head="masked"))
    with pytest.raises(RuntimeError, match=r"reads the word table, which is offloaded .* \(offload_buffers=False\)"):
        outputs(cpu_offload(model, CPU, offload_buffers=True))
