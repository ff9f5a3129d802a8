"""What tests ask of a page in a browser."""

import re

import pytest


def until(page, condition):
    """Waits for a condition; the page's policy forbids what Playwright would wait by."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never came true: {condition}")


def cut(page):
    """How much of the left picture the right one covers, in pixels."""
    clip = page.eval_on_selector("#pane-left", "x => getComputedStyle(x).clipPath")
    return float(re.fullmatch(r"inset\(0px(?: ([\d.]+)px 0px 0px)?\)", clip)[1] or 0)
