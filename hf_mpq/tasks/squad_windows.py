"""Questions with long contexts, cut into windows that overlap."""

import numpy as np
from transformers import BatchEncoding, PreTrainedTokenizerBase

OUTSIDE = (-1, -1)


def encode_windows(
    batch: dict[str, list], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> BatchEncoding:
    """Question and context, the context cut into windows of `max_length` tokens in all that share `stride` tokens.

    A row of the result is a window; ``overflow_to_sample_mapping`` names its example.

    Raises:
        ValueError: the tokenizer has no offsets, or a question leaves no room for more context than `stride`.
    """
    if not tokenizer.is_fast:
        raise ValueError(f"{type(tokenizer).__name__} gives no character offsets; take a fast tokenizer.")
    questions = [question.strip() for question in batch["question"]]
    check_room(questions, tokenizer, max_length, stride)
    return tokenizer(
        questions,
        batch["context"],
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def check_room(questions: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> None:
    """Refuses questions after which a window has no more than `stride` tokens of context.

    Raises:
        ValueError: there is such a question.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    longest = max(map(len, tokenizer(questions, add_special_tokens=False)["input_ids"]))
    needed = longest + special + stride + 1
    if max_length < needed:
        raise ValueError(
            f"A question of {longest} tokens leaves no room in max_length={max_length} for more context "
            f"than the stride of {stride}; use max_length={needed} or more, or a smaller stride."
        )


def context_offsets(encoding: BatchEncoding, window: int) -> np.ndarray:
    """The characters of the context behind each token, (length, 2); (-1, -1) for tokens that are not of the context."""
    in_context = np.array([sequence == 1 for sequence in encoding.sequence_ids(window)])
    return np.where(in_context[:, None], np.array(encoding["offset_mapping"][window]), OUTSIDE)


def answer_tokens(offsets: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token of the characters `start` to `end`, None where the window does not hold them all."""
    context = np.flatnonzero(offsets[:, 0] >= 0)
    if not len(context) or offsets[context[0], 0] > start or offsets[context[-1], 1] < end:
        return None
    touched = context[(offsets[context, 1] > start) & (offsets[context, 0] < end)]
    return (int(touched[0]), int(touched[-1])) if len(touched) else None
