"""The demo page draws Python's picture in headless Chromium."""

import base64
import functools
import io
import os
import re
import shutil
import subprocess
import threading
import urllib.parse
import warnings
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from textual_vision.runtime import TextToImage

PACKAGE = Path(__file__).parents[3] / "runtime" / "js"
CHROMIUM_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=60000",
    "--dump-dom",
]


class QuietHandler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar = {**SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

    def log_message(self, *given):
        """Print nothing."""


@pytest.fixture(scope="session")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here")
    return found


@pytest.fixture
def site(tmp_path, tiny_bundle):
    """The address of the demo page, with a bundle and onnxruntime-web beside it."""
    modules = os.environ.get("PROMPTSPRITE_NODE_MODULES")
    if modules is None or not (Path(modules) / "node_modules" / "onnxruntime-web").is_dir():
        pytest.skip("PROMPTSPRITE_NODE_MODULES names no folder where onnxruntime-web is installed")
    folder = tmp_path / "site"
    shutil.copytree(PACKAGE / "demo", folder)
    shutil.copytree(PACKAGE / "src", folder / "src")
    shutil.copytree(tiny_bundle, folder / "emoji.tv")
    (folder / "ort").symlink_to(Path(modules) / "node_modules" / "onnxruntime-web" / "dist")
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(("prompt", "seed"), [("dog wearing sunglasses", 7), ("[PAD] cat", 3)])
def test_the_demo_page_draws_the_picture_of_python(chromium, site, tiny_bundle, tmp_path, prompt, seed):
    address = f"{site}index.html?{urllib.parse.urlencode({'prompt': prompt, 'seed': seed})}"
    command = [chromium, *CHROMIUM_OPTIONS, f"--user-data-dir={tmp_path / 'profile'}", address]
    page = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120).stdout
    found = re.search(r'href="data:image/png;base64,([^"]+)"', page)
    assert found, page[-1500:]
    picture = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = TextToImage.load(tiny_bundle, backend="onnxruntime").generate([prompt], [seed])
    codes = re.search(r'<output id="codes">([\d ]+)</output>', page)[1]
    assert list(map(int, codes.split())) == expected.codes.ravel().tolist()
    assert np.abs(np.asarray(picture).astype(int) - expected.images[0]).max() <= 1
