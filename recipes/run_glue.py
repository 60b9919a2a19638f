"""Compress an encoder on a task of sequence classification or regression: GLUE.

    accelerate launch recipes/run_glue.py recipes/methods/mpq.yaml recipes/tasks/sst2.yaml \\
        --model_name_or_path MODEL --output_dir out/sst2
"""

from recipe import run

if __name__ == "__main__":
    run("sequence-classification")
