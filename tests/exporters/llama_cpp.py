"""Runs a GGUF file in llama.cpp, in a process of its own: `python llama_cpp.py FILE < ids or texts, prints vectors`."""

import json
import os
import sys


def main() -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.embedding, params.warmup = sys.argv[1], True, False
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    found = server.handle_embeddings({"input": json.load(sys.stdin), "embd_normalize": -1})
    vectors = [one["embedding"] for one in sorted(found["data"], key=lambda one: one["index"])]
    print(json.dumps(vectors), flush=True)
    os._exit(0)  # the server takes seconds to stop


if __name__ == "__main__":
    main()
