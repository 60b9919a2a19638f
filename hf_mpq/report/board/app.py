"""The leaderboard in a browser."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..._extras import require
from .sources import Source
from .view import CHOICES, Board

if TYPE_CHECKING:
    from gradio import Blocks

HEAD = """# Leaderboard of hf_mpq

Stored bytes against the share of the float model's score that is kept, as it was measured. Where nothing is chosen, all
are shown."""


def make_app(sources: Sequence[Source]) -> Blocks:
    """Two pages: methods under budgets, to be filtered and drawn; and the tables of all other questions.

    Raises:
        ModuleNotFoundError: gradio is not installed.
    """
    with require("app", "hf-mpq leaderboard"):
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # otherwise it reports to its maker
        import gradio

    board = Board(sources)
    with gradio.Blocks(title="hf_mpq leaderboard", analytics_enabled=False) as app:
        gradio.Markdown(HEAD)
        with gradio.Tab("Methods under a budget"):
            _methods(gradio, app, board)
        if board.questions():
            with gradio.Tab("Other questions"):
                _questions(gradio, board)
    return app


def launch(app: Blocks, port: int | None = None, browser: bool = True) -> str:
    """Serve it on this machine alone, with no fonts or scripts from elsewhere; returns the address at once.

    Args:
        port: None for the first that is free from 7860 on.
        browser: whether one is opened.

    Raises:
        OSError: the port is taken.
    """
    import gradio

    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    _, address, _ = app.launch(
        server_name="127.0.0.1",
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        theme=theme,
        footer_links=[],
    )
    return address


def _methods(gradio: Any, app: Blocks, board: Board) -> None:
    inputs = []
    with gradio.Row():
        for name, choices in board.choices().items():
            inputs.append(gradio.Dropdown(choices, label=CHOICES[name], multiselect=True, value=[], elem_id=name))
    words = gradio.Markdown()
    chart = gradio.Plot(show_label=False)
    table = gradio.Dataframe(interactive=False, datatype="markdown", wrap=False, show_label=False, elem_id="table")

    def show(*values: list[str]) -> tuple:
        view = board.view(**dict(zip(CHOICES, values)))
        shown = gradio.update(value=view.chart, visible=view.chart is not None)
        head = [title.replace("`", "") for title in view.table.head]  # which are no Markdown there
        return view.words, shown, {"headers": head, "data": view.table.body}

    for one in inputs:
        one.change(show, inputs, [words, chart, table], api_name=False, show_progress="hidden")
    app.load(show, inputs, [words, chart, table], api_name=False)


def _questions(gradio: Any, board: Board) -> None:
    first = board.questions()[0]
    question = gradio.Dropdown(board.questions(), value=first, label="Question", elem_id="question")
    answer = gradio.Markdown(board.answer(first), elem_id="answer")
    question.change(board.answer, question, answer, api_name=False, show_progress="hidden")
