"""What docs/extending.md prints is what the tests beside this file run."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "extending.md"


def test_every_block_of_the_page_is_run():
    run = "".join(file.read_text(encoding="utf-8") for file in HERE.glob("test_*.py"))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    assert [block for block in blocks if block not in run] == []
