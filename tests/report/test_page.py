"""The page about one model."""

import re
from base64 import b64decode
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from hf_mpq import assignment_of
from hf_mpq.report import summarize, write_html
from tests.report.pictures import mixed
from tests.report.test_charts import runs
from tests.tiny import tiny_batch, tiny_model

QUICK = {"tokens": 16, "batch": 2, "seconds": 0.02, "backend": "cpu-float"}
VOID = {"meta", "source", "img"}


class Page(HTMLParser):
    """Tags, texts and addresses of a page; it must be well nested."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.texts, self.addresses, self.tags = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "srcset", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def pictures(page: Page) -> list[tuple[str, bytes]]:
    """Kind and content of every image."""
    matches = [re.fullmatch(r"data:image/(png|svg)[^;]*;base64,(.+)", address) for address in page.addresses]
    return [(match[1], b64decode(match[2])) for match in matches]


def test_the_page_of_a_run_is_whole_in_one_file(searched, tmp_path):
    file = write_html(
        tmp_path / "page.html",
        searched / "packed",
        searched,
        teacher=tiny_model("bert"),
        data=[tiny_batch()],
        scores={"accuracy": 0.912},
        runs=runs(),
        front={"y": "unseen_kl", "lower_is_better": True},
        command="hf-mpq train <recipe>",
        **QUICK,
    )
    text = file.read_text()
    page = Page(text)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "script" not in page.tags and "link" not in page.tags and not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    kinds = [kind for kind, _ in pictures(page)]
    assert kinds == ["png"] * 2 + ["svg"] * 4 + ["png"] * 2 + ["svg"] * 2
    for kind, content in pictures(page):
        if kind == "svg":
            ElementTree.fromstring(content)
        else:
            assert content.startswith(b"\x89PNG")
    assert len({content for _, content in pictures(page)}) == len(kinds)
    said = " ".join(page.texts)
    for words in (
        "packed",
        "trained by mpq under 3bits",
        "bits per encoder weight",
        "0.912",
        "label loyalty",
        "Latency",
        "The search",
        "Sensitivity",
        "Beside other runs",
        "encoder.layer.1.output.dense",
        "qat",
        "hf-mpq train <recipe>",
        "cpu-float",
    ):
        assert words in said


@pytest.mark.parametrize("family", ["deberta-v2", "modernbert"])
def test_the_page_of_a_model_in_memory(family, tmp_path):
    model = mixed(family)
    summary = summarize(model, measure=False)
    page = Page(write_html(tmp_path / "page.html", model, summary=summary, title="one < two").read_text())
    assert [kind for kind, _ in pictures(page)] == ["png", "png"]
    assert "one < two" in page.texts and f"{summary.average_bits:.2f}" in page.texts
    bars = sum(tag == "i" for tag in page.tags)
    histograms = [matrix.histogram() for matrix in assignment_of(model).matrices.values()]
    assert bars == sum(map(len, histograms)) + len(set().union(*histograms))


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="output_dir of an MPQTrainer"):
        write_html(tmp_path / "page.html", mixed("bert"), tmp_path, measure=False)
