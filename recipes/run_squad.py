"""Compress an encoder on extractive question answering: SQuAD.

    accelerate launch recipes/run_squad.py recipes/methods/mpq.yaml recipes/tasks/squad.yaml \\
        --model_name_or_path MODEL --output_dir out/squad
"""

from recipe import run

if __name__ == "__main__":
    run("question-answering")
