"""A model that many threads use at once."""

import threading
from collections.abc import Callable, Sequence

import torch

ROUNDS = 10


def wrong_answers(
    model,
    batches: Sequence[dict],
    wanted: Sequence,
    alike: Callable = torch.equal,
    rounds: int = ROUNDS,
    output: str = "logits",
) -> list[int]:
    """Numbers of the batches for which a thread of their own, beside all the others, ever got another output.

    Args:
        wanted: output of each batch.
        alike: of two outputs.
        rounds: how often each thread asks.
        output: its name.
    """
    wrong = []

    def serve(number: int) -> None:
        with torch.no_grad():
            for _ in range(rounds):
                if not alike(model(**batches[number])[output], wanted[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=serve, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong
