"""Take the README's picture of a report: python docs/photograph.py results/default/report.html.

Needs Chromium with its driver. Writes docs/report.webp: the start of the gallery, from the
simplest pictures on.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver

WIDTH, HEIGHT = 1200, 730


def main(report: str) -> None:
    """Open the report and take the picture."""
    options = webdriver.ChromeOptions()
    for option in ("headless=new", "no-sandbox", "hide-scrollbars", "force-device-scale-factor=1"):
        options.add_argument(f"--{option}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options, service)
    try:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False},
        )
        browser.get(Path(report).resolve().as_uri())
        browser.execute_script(
            "document.querySelector('#gallery article').scrollIntoView();"
            "window.scrollBy(0, -60);"  # the level's heading, below the bar at the top
        )
        data = browser.get_screenshot_as_png()
    finally:
        browser.quit()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.save(Path(__file__).with_name("report.webp"), quality=80, method=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
