"""The explorer for colleagues who do not program: choose a case, look, take scans away, save.

`notebooks/explorer.ipynb` holds it, and `python -m maml_toolkit explore RUN DATA` serves that notebook with Voilà on
this machine alone.

References:
    Voilà, https://voila.readthedocs.io
"""

import base64
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets

from maml_toolkit.data.cases import Case
from maml_toolkit.pictures.widgets.explorer import Explorer, explore
from maml_toolkit.prediction.prediction import Prediction
from maml_toolkit.system.errors import DataError


class App(ipywidgets.VBox):
    """A list of cases above the explorer of the chosen one.

    Attributes:
        explorer: of the case on show; None where it could not be segmented.
        prediction: of it, with those from every subset that the method answers from.
    """

    explorer: Explorer | None = None
    prediction: Prediction | None = None

    def __init__(self, cases: Sequence[Case], segment: Callable[[Case], Prediction], out: Path):
        self.cases, self.segment, self.out = {case.id: case for case in cases}, segment, out
        self.choice = ipywidgets.Dropdown(options=list(self.cases), description="Case")
        self.save = ipywidgets.Button(description="Save label map", tooltip=f"into {out}")
        self.status = ipywidgets.HTML()
        self.place = ipywidgets.VBox()
        super().__init__([ipywidgets.HBox([self.choice, self.save, self.status]), self.place])
        self.choice.observe(lambda change: self.show(change["new"]), "value")
        self.save.on_click(lambda button: self._save())
        self.show(self.choice.value)

    def show(self, id: str) -> None:
        """Segment a case from all subsets of its scans and look at it; what goes wrong is said in the page."""
        if self.explorer is not None:
            self.explorer.close()               # or its arrays stay, here and in the browser
        self.explorer, self.prediction, self.place.children, self.save.disabled = None, None, (), True
        self._say(f"Segmenting {id} …")
        try:
            self.prediction = self.segment(self.cases[id])
            self.explorer = explore(self.cases[id], self.prediction)
        except (DataError, ValueError) as error:
            self._say(str(error))
            return
        except Exception as error:
            self._say(f"{type(error).__name__}: {error}")
            raise
        self.place.children, self.save.disabled = (self.explorer,), False
        self._say(". ".join(filter(None, (str(self.prediction.sureness or ""), self.explorer.memory))))

    def _save(self) -> None:
        try:
            saved = self.prediction.save(self.out / self.prediction.case)
            self._say(f"Saved in {saved}: the answer from {', '.join(self.prediction.modalities)}")
        except DataError as error:
            self._say(f"Not saved: {error}")
        except OSError as error:
            self._say(f"Not saved: {self.out} cannot be written ({error.strerror}).")

    def _say(self, text: str) -> None:
        self.status.value = f"<small>{escape(text)}</small>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if self.explorer is not None:
            (bundle if isinstance(bundle, dict) else bundle[0])["image/png"] = \
                base64.b64encode(self.explorer.png).decode()
        return bundle


def app(cases: Sequence[Case], segment: Callable[[Case], Prediction], out: str | Path) -> App:
    """A page to choose a case from, look through it, see what each scan does, and save the label map.

    Args:
        cases: to choose from; the first is shown at once.
        segment: from a case to its prediction, with those of the subsets, such as
            `lambda case: predictor.subsets(case, attention=True, contributions=True)`.
        out: the folder in which label maps and the other files of a prediction are saved, one folder a case.

    Raises:
        ValueError: no cases.
    """
    if not cases:
        raise ValueError("found no cases, expected at least one to choose from")
    return App(cases, segment, Path(out))
