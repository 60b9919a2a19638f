"""Masks on disk: every encoding gives the mask back, in as many bytes as it says."""

import pytest
import torch

from hf_mpq.core import MaskStorage, Part
from hf_mpq.core.storage import FLAGS, plane_bytes
from hf_mpq.format import MASK_ENCODINGS, mask_encoding, stored_mask

RUNS, BLOCKS = Part("runs"), Part("n:m")
PATTERNS = [(2, 4), (1, 4), (4, 8), (2, 16), (4, 16), (1, 32), (5, 6), (4, 4)]


def random_mask(density, lines=60, length=80):
    return torch.rand(lines, length) < density


def block_mask(kept, block, lines=9, blocks=5):
    scores = torch.rand(lines, blocks, block)
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, scores.topk(kept).indices, True).flatten(1)


def there_and_back(part, keep):
    encoding = mask_encoding(part)
    octets = encoding.encode(keep)
    assert octets.dtype == torch.uint8
    assert torch.equal(encoding.decode(octets, *keep.shape), keep)
    assert encoding.possible(*keep.shape, int(keep.sum()), len(octets))
    return len(octets)


@pytest.mark.parametrize("density", [0.0, 0.004, 0.03, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("part", [FLAGS, RUNS], ids=lambda part: part.name)
def test_any_mask_comes_back(part, density):
    keep = random_mask(density)
    size = there_and_back(part, keep)
    expected = mask_encoding(part).size(*keep.shape, int(keep.sum()))
    assert size == pytest.approx(expected, rel=0.05, abs=8) and (part != FLAGS or size == expected)
    there_and_back(part, keep[:0])
    there_and_back(part, keep[:, :0])
    there_and_back(part, keep[:3, :5])


@pytest.mark.parametrize(("kept", "block"), PATTERNS)
def test_blocks_come_back_in_the_bits_of_their_patterns(kept, block):
    keep, part = block_mask(kept, block), Part("n:m", kept=kept, block=block)
    assert there_and_back(part, keep) == mask_encoding(part).size(*keep.shape, int(keep.sum()))
    keep[4, 1] = ~keep[4, 1]
    assert mask_encoding(part).encode(keep) is None


def test_what_bytes_mean():
    """By hand, as `docs/format.md` has it."""
    patterns = ("0011", "0101", "0110", "1001", "1010", "1100")
    line = torch.tensor([[digit == "1" for pattern in reversed(patterns) for digit in pattern]])
    octets = mask_encoding(BLOCKS).encode(line)  # 5 4 3 2 1 0
    assert [format(one, "08b") for one in octets.tolist()] == ["11000000", "00110000", "10101000"]
    gaps = [3, 0, 20, 30]
    keep = torch.tensor([[digit for gap in gaps for digit in [False] * gap + [True]] + [False] * 9])
    assert mask_encoding(RUNS).encode(keep).tolist() == [0x30, 0xF5, 0xFF, 0x0F]


@pytest.mark.parametrize(("name", "share", "bits"), [("n:m", 0.5, 0.75), ("flags", 0.1, 1), ("runs", 0.1, 0.5037)])
def test_bits_a_weight(name, share, bits):
    assert mask_encoding(Part(name)).rate(share) == pytest.approx(bits, abs=1e-4)
    assert mask_encoding(Part("n:m", kept=1, block=4)).rate(0.25) == 0.5


@pytest.mark.parametrize(("density", "runs", "flags"), [(0.1, 24.6, 17.8), (0.15, 17.2, 14.55)])
def test_sparse_8_bit_matrices_against_float(density, runs, flags):
    keep = torch.rand(512, 768).view(-1).topk(round(density * 512 * 768)).indices
    keep = torch.zeros(512 * 768, dtype=torch.bool).index_fill(0, keep, True).view(512, 768)
    codes = plane_bytes(1, int(keep.sum()), 8)
    for part, ratio in ((RUNS, runs), (FLAGS, flags)):
        size = sum(stored_mask({8: keep}, [part]).sizes.values())
        assert 4 * keep.numel() / (codes + size) == pytest.approx(ratio, rel=3e-3)


def test_the_smallest_is_taken():
    parts = [BLOCKS, FLAGS, RUNS]
    assert stored_mask({4: block_mask(2, 4), 8: block_mask(2, 4, lines=3)}, parts).encoding == BLOCKS
    assert stored_mask({4: random_mask(0.1), 8: random_mask(0.1)}, parts).encoding == RUNS
    assert stored_mask({4: block_mask(2, 4), 8: random_mask(0.5)}, parts).encoding == FLAGS
    assert stored_mask({}, parts) is None


def test_flags_need_no_sizes():
    masks = {2: random_mask(0.5, 3, 10), 4: random_mask(0.5, 2, 10)}
    kept = {bits: int(keep.sum()) for bits, keep in masks.items()}
    assert stored_mask(masks, [FLAGS]) == MaskStorage.flags(kept, {2: 3, 4: 2}, 10)


@pytest.mark.parametrize("name", list(MASK_ENCODINGS))
def test_sizes_that_no_mask_has_are_known(name):
    encoding, keep = mask_encoding(Part(name)), block_mask(2, 4)
    kept, size = int(keep.sum()), len(encoding.encode(keep))
    assert encoding.possible(*keep.shape, kept, size)
    assert not encoding.possible(*keep.shape, kept, size // 3) and not encoding.possible(*keep.shape, kept, 9 * size)


@pytest.mark.parametrize("name", list(MASK_ENCODINGS))
def test_damaged_bytes_are_some_mask(name):
    """Never an error of indices: what is wrong is then found by what the mask keeps."""
    keep, encoding = block_mask(2, 4), mask_encoding(Part(name))
    size = len(encoding.encode(keep))
    for octets in (torch.randint(0, 256, (size,), dtype=torch.uint8), torch.full((size,), 255, dtype=torch.uint8)):
        assert encoding.decode(octets, *keep.shape).shape == keep.shape


@pytest.mark.parametrize(("kept", "block"), [(0, 4), (5, 4), (12, 24), (3, 65)])
def test_blocks_without_numbers_are_refused(kept, block):
    with pytest.raises(ValueError, match="use 'flags'"):
        mask_encoding(Part("n:m", kept=kept, block=block))
