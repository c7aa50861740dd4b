"""Drawing leaves the user's home as it was, and opens no connection."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Python's own calls are seen by an audit hook; what libraries in C open is a socket among the descriptors.
SCRIPT = """
import os, sys, time
asked = []
def watch(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        asked.append(event)
sys.addaudithook(watch)
{before}
def sockets():
    places = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
    links = [os.readlink(place) for place in places if os.path.islink(place)]
    return [link for link in links if "socket:" in link]
found = set()
from textual_vision.runtime import TextToImage
model = TextToImage.load({bundle!r}, backend={backend!r})
for _ in range(20):
    model("a dog")
    found.update(sockets())
    time.sleep(0.1)
print(asked, sorted(found), "openvino_telemetry.main" in sys.modules)
"""


@pytest.fixture
def drawn(tiny_bundle, tmp_path):
    """Draw in a fresh process and home; gives what it printed and the files that are in the home then."""

    def draw(backend, before="", **variables):
        home = tmp_path / "home"
        home.mkdir()
        script = SCRIPT.format(bundle=str(tiny_bundle), backend=backend, before=before)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
        environment = {**kept, "HOME": str(home), **variables}
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip(), sorted(str(path.relative_to(home)) for path in home.rglob("*"))

    return draw


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="sockets are found in /proc")
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_drawing_opens_no_connection_and_writes_nothing_into_the_home(drawn, backend):
    assert drawn(backend) == ("[] [] False", [])


def test_what_the_user_set_stays(tiny_bundle):
    script = "import os, textual_vision.runtime.backends\nprint(os.environ['ORT_DISABLE_TELEMETRY'])"
    for given, expected in ((None, "1"), ("0", "0")):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ORT_")}
        environment = kept if given is None else {**kept, "ORT_DISABLE_TELEMETRY": given}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected
