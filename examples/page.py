"""The attention page as `danet serve` shows it, as a picture: docs/page.png.

    python examples/page.py [docs/page.png]      needs `pip install '.[serve]' playwright` and Chromium

The built-in street, and what a far place of its pavement looks at.
"""

import os
import re
import shutil
import subprocess
import sys

from playwright.sync_api import sync_playwright

AT = (490, 430)  # pixels of the 640×480 that the page shows


def main(path: str = "docs/page.png") -> None:
    browser = os.environ.get("DANET_CHROMIUM") or shutil.which("chromium")
    command = [sys.executable, "-m", "danet", "serve", "--port", "0", "--precision", "float32"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            address = re.search(r"http://\S+", server.stdout.readline() if server.stdout else "")
            page = playwright.chromium.launch(executable_path=browser).new_page(
                viewport={"width": 1280, "height": 1010}, locale="en"
            )
            page.goto(f"{address[0] if address else ''}/#image=scene&at={AT[0]},{AT[1]}")
            page.get_by_text("100 % sure").wait_for()
            page.screenshot(path=path)
        finally:
            server.terminate()


if __name__ == "__main__":
    main(*sys.argv[1:])
