"""The live demo of these pages: the explorer of a phantom as one file that needs neither Python nor a network.

`make live-demo` trains as `make demo` does and keeps in docs/demo.json what the explorer needs of a phantom that the
network never saw: its scans, its ground truth, and the answer from each subset of the scans. `docs/build.py` makes the
page of it, with the explorer as it is then.
"""

import base64
import json
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
DATA = HERE / "demo.json"
SAID = """A network marked the tumour of this phantom (dashed; the ground truth is solid), and the colours say what each
scan contributed: red speaks for tumour, blue against it. Untick a scan to see the answer without it; click, drag or use
the arrow keys in a picture to read the sum there."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>maml_toolkit: untick a scan</title>
<style>
body {{ margin: 0 auto; max-width: 75rem; font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }}
body > p {{ margin: 8px; }}
{style}
</style>
</head>
<body>
<p>{said}</p>
<main></main>
<noscript><p>The explorer is drawn by a script, which is switched off here.</p></noscript>
<script type="application/json">{data}</script>
<script type="module">
const {{ default: explorer }} = await import("data:text/javascript;base64,{script}");
const known = JSON.parse(document.querySelector("script[type='application/json']").textContent);
for (const [name, text] of Object.entries(known.arrays)) {{
  known.arrays[name] = Uint8Array.from(atob(text), (one) => one.charCodeAt(0));
}}
const model = {{ get: (name) => known[name], set: (name, value) => {{ known[name] = value; }}, on() {{}}, off() {{}},
  save_changes() {{}} }};
const place = document.querySelector("main");
await explorer.render({{ model, el: place }});
const map = place.querySelector("select[name=map]");
map.value = "contribution";
map.dispatchEvent(new Event("change"));
new ResizeObserver(() => parent.postMessage({{ height: document.body.scrollHeight }}, "*")).observe(document.body);
</script>
</body>
</html>
"""


def page() -> str:
    """The demo as HTML: the kept data and the package's explorer, which finds here what a notebook would give it."""
    from maml_toolkit.pictures.widgets.explorer import HERE as widgets
    return PAGE.format(said=SAID, data=DATA.read_text(encoding="utf-8"),
                       style=(widgets / "explorer.css").read_text(encoding="utf-8"),
                       script=base64.b64encode((widgets / "explorer.js").read_bytes()).decode())


def make(run: str) -> None:
    """Asks a run for every subset of the scans of a phantom that it never saw, and writes DATA."""
    from maml_toolkit import Predictor, explore, phantoms
    predictor = Predictor.load(run, "newest")
    case = phantoms.liver_phases(4, size=48, seed=1000, spacing_mm=(2 / 3,) * 3)[3]    # 32 mm, as in training
    widget = explore(case, predictor.subsets(case, attention=True, contributions=True))
    arrays = {name: base64.b64encode(zlib.compress(zlib.decompress(one), 9)).decode()
              for name, one in widget.arrays.items()}
    kept = {"summary": widget.summary, "voxel": widget.voxel, "scans": widget.scans, "arrays": arrays}
    DATA.write_text(json.dumps(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(sys.argv[1])
