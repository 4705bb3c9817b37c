"""docs/tutorial.md says what its code prints. ``python tests/test_tutorial.py`` writes the printed lines anew."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.S)


def printed(page):
    """What each block of the page prints, run top to bottom as one script."""
    names, outputs = {"__name__": "tutorial"}, []
    for k, block in enumerate(BLOCK.finditer(page), 1):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block[1], f"block {k} of {PAGE.name}", "exec"), names)
        outputs.append(out.getvalue())
    return outputs


@pytest.mark.skipif(not PAGE.exists(), reason="the docs are not beside the tests")
def test_every_block_prints_what_the_page_says():
    page = PAGE.read_text()
    outputs = printed(page)
    assert len(outputs) >= 12
    assert page.count("```text") == sum(1 for out in outputs if out), "output without a block of code right above it"
    for block, out in zip(BLOCK.finditer(page), outputs, strict=True):
        assert (block[2] or "").splitlines() == [line.rstrip() for line in out.splitlines()], f"after\n{block[1]}"


if __name__ == "__main__":
    page = PAGE.read_text()
    outputs = iter(printed(page))

    def with_output(block):
        out = "".join(f"{line.rstrip()}\n" for line in next(outputs).splitlines())
        return f"```python\n{block[1]}```\n" + (f"\n```text\n{out}```\n" if out else "")

    PAGE.write_text(BLOCK.sub(with_output, page))
