"""A Gradio Space: make a fine-tuned encoder small, look at its bits, compare answers, take it home.

At home: `python app.py`, in an environment that has hf_mpq and gradio.
"""

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # otherwise it reports to its maker

import gradio
from workshop import SHARED, Made, Refused, compress

HEAD = """# Make an encoder small

A fine-tuned BERT-family model goes in, a budget says how small, and a folder comes out that `from_pretrained` loads
after `import hf_mpq`. Every sub-group of output neurons gets its own bit width, where it matters most."""
PLACE = "Name on the Hub" if SHARED else "Folder, or name on the Hub"
BUDGETS = ["30%", "25%", "20%", "15%", "10%"]
HOUR = 3600


def make(source: str, budget: str, texts: str, before: Made | None):
    """Compress; what the page then shows."""
    try:
        made = compress(source or "", budget or "", texts or "")
    except Refused as error:
        raise gradio.Error(str(error), print_exception=False) from error
    if before is not None:
        before.forget()
    bits = f"{made.report['average_bits']:.2f} bits per encoder weight, {made.report['ratio']:.1%} of float32"
    return made, bits, made.sizes(), str(made.picture), str(made.archive), gradio.update(visible=True)


def ask(made: Made | None, text: str, other: str):
    """What both models say, and whether they decide alike."""
    if made is None:
        raise gradio.Error("compress a model first", print_exception=False)
    try:
        first, second = made.answers(text or "", other or "")
    except Refused as error:
        raise gradio.Error(str(error), print_exception=False) from error
    return first, second, compared(first, second)


def compared(first: dict[str, float], second: dict[str, float]) -> str:
    """In words: how far two numbers are apart, or whether two decisions are the same."""
    if len(first) == 1 and first.keys() == second.keys():
        (one,), (other,) = first.values(), second.values()
        return f"They differ by {abs(one - other):.4f}."
    alike = max(first, key=first.get) == max(second, key=second.get)
    return "Both decide alike." if alike else "They decide differently."


def page() -> gradio.Blocks:
    """The whole page."""
    with gradio.Blocks(title="Make an encoder small", analytics_enabled=False) as app:
        made = gradio.State(None, time_to_live=HOUR, delete_callback=lambda one: one and one.forget())
        gradio.Markdown(HEAD)
        with gradio.Row():
            source = gradio.Textbox(label=PLACE, placeholder="owner/my-fine-tuned-bert", elem_id="source")
            budget = gradio.Dropdown(
                BUDGETS, value="25%", allow_custom_value=True, label="Budget", info="or 12MB, 2.5bits", elem_id="budget"
            )
        texts = gradio.Textbox(
            label="Inputs to calibrate on, one a line",
            info="A few hundred of your own; without any, bits are found from the weights alone.",
            lines=4,
            max_lines=12,
            elem_id="texts",
        )
        start = gradio.Button("Compress", variant="primary", elem_id="start")
        with gradio.Column(visible=False, elem_id="result") as result:
            words = gradio.Markdown(elem_id="words")
            with gradio.Row():
                sizes = gradio.Dataframe(headers=["", "float", "packed"], interactive=False, label="Size", scale=1)
                archive = gradio.File(label="The packed folder", interactive=False, scale=1, elem_id="archive")
            gradio.Markdown("## Bits of every sub-group")
            picture = gradio.Image(show_label=False, interactive=False, elem_id="picture")
            gradio.Markdown("## The same input to both")
            with gradio.Row():
                text = gradio.Textbox(label="Text", info="or the question", elem_id="text")
                other = gradio.Textbox(
                    label="Second text", info="of a pair, or the context of a question", elem_id="other"
                )
            go = gradio.Button("Ask both", elem_id="go")
            with gradio.Row():
                large = gradio.Label(label="Float", num_top_classes=5, elem_id="float")
                small = gradio.Label(label="Compressed", num_top_classes=5, elem_id="small")
            verdict = gradio.Markdown(elem_id="verdict")
        shown = [made, words, sizes, picture, archive, result]
        start.click(make, [source, budget, texts, made], shown, api_name=False, concurrency_limit=1)
        gradio.on([go.click, text.submit], ask, [made, text, other], [large, small, verdict], api_name=False)
    return app


if __name__ == "__main__":
    page().launch(footer_links=[])
