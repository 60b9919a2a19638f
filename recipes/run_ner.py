"""Compress an encoder on token classification: CoNLL-2003.

    accelerate launch recipes/run_ner.py recipes/methods/mpq.yaml recipes/tasks/conll2003.yaml \\
        --model_name_or_path MODEL --output_dir out/conll2003
"""

from recipe import run

if __name__ == "__main__":
    run("token-classification")
