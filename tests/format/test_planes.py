"""Bit planes: round trips at every width, and the bit order that files rely on."""

import pytest
import torch

from hf_mpq.format import pack_flags, pack_planes, unpack_flags, unpack_planes

WIDTHS = range(1, 9)


def random_codes(lines, length, bits):
    return torch.randint(0, 2**bits, (lines, length), dtype=torch.uint8)


@pytest.mark.parametrize("lines", [0, 1, 2, 5])
@pytest.mark.parametrize("bits", WIDTHS)
def test_codes_come_back(bits, lines, device):
    for length in (0, 1, 7, 8, 9, 15, 16, 63, 64, 65):
        codes = random_codes(lines, length, bits).to(device)
        planes = pack_planes(codes, bits)
        assert planes.shape == (bits, lines, (length + 7) // 8) and planes.dtype == torch.uint8
        assert torch.equal(unpack_planes(planes, length), codes), length


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_code_survives(bits):
    codes = torch.arange(2**bits, dtype=torch.uint8).unsqueeze(0)
    assert torch.equal(unpack_planes(pack_planes(codes, bits), 2**bits), codes)


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_order_of_bits(bits):
    codes = random_codes(3, 21, bits)
    planes = pack_planes(codes, bits)
    for plane in range(bits):  # most significant first
        for line in range(3):
            for byte in range(3):
                values = [int(code) >> (bits - 1 - plane) & 1 for code in codes[line, 8 * byte : 8 * byte + 8]]
                text = "".join(map(str, values)).ljust(8, "0")  # the first code in the highest bit
                assert int(planes[plane, line, byte]) == int(text, 2)


def test_written_out_by_hand():
    codes = torch.tensor([[5, 0, 2, 0, 0, 0, 0, 1, 4]], dtype=torch.uint8)  # 101 000 010 ... 001 100
    assert pack_planes(codes, 3).flatten().tolist() == [0b10000000, 0b10000000, 0b00100000, 0, 0b10000001, 0]


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_first_planes_are_the_codes_shifted_right(bits):
    codes = random_codes(4, 19, bits)
    planes = pack_planes(codes, bits)
    for fewer in range(1, bits + 1):
        assert torch.equal(unpack_planes(planes[:fewer], 19), codes >> (bits - fewer))
        assert torch.equal(planes[:fewer], pack_planes(codes >> (bits - fewer), fewer))


@pytest.mark.parametrize("bits", WIDTHS)
def test_some_lines_of_the_planes_are_those_lines(bits):
    codes, rows = random_codes(6, 13, bits), torch.tensor([4, 0, 4])
    assert torch.equal(unpack_planes(pack_planes(codes, bits)[:, rows], 13), codes[rows])


@pytest.mark.parametrize("bits", WIDTHS)
def test_views_of_other_tensors_are_packed_alike(bits):
    wide = random_codes(16, 24, bits)
    for view in (wide.T, wide[:, 3:11], wide[1::2], wide[:1, 8:16]):
        planes = pack_planes(view, bits)
        assert torch.equal(planes, pack_planes(view.clone(memory_format=torch.contiguous_format), bits))
        assert torch.equal(unpack_planes(planes, view.shape[1]), view)
    held = torch.zeros(bits * 16 * 3 + 1, dtype=torch.uint8)  # planes cut out of a buffer at an odd place
    held[1:] = pack_planes(wide, bits).flatten()
    assert torch.equal(unpack_planes(held[1:].view(bits, 16, 3), 24), wide)


@pytest.mark.parametrize("bits", WIDTHS)
def test_packing_does_not_change_its_input(bits):
    codes = random_codes(2, 16, bits)
    before = codes.clone()
    pack_planes(codes, bits).zero_()
    assert torch.equal(codes, before)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_flags_come_back(count):
    flags = torch.rand(count) > 0.5
    packed = pack_flags(flags)
    assert packed.shape == ((count + 7) // 8,) and packed.dtype == torch.uint8
    assert torch.equal(unpack_flags(packed, count), flags)


def test_flags_are_one_plane_with_the_first_in_the_highest_bit():
    assert pack_flags(torch.tensor([True] + [False] * 7 + [False, True])).tolist() == [128, 64]
