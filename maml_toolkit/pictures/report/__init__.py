"""Pages to read and to keep: what was found, in one HTML file that needs no network and no other file.

Texts are escaped and paths are shown relative to the data set, since folders often carry names of people and places.
"""

from maml_toolkit.pictures.report.audits import audit_page
from maml_toolkit.pictures.report.cases import case_page
from maml_toolkit.pictures.report.registrations import registration_page
from maml_toolkit.pictures.report.runs import run_page

__all__ = ["audit_page", "case_page", "registration_page", "run_page"]
