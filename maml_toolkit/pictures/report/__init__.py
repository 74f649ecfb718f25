"""Pages to read and to keep: of a run, of a case, of an audit and of a registration.

Texts are escaped and paths are shown relative to the data set, since folders often carry names of people and places.
"""

from maml_toolkit.pictures.report.answers import case_page, run_page
from maml_toolkit.pictures.report.scans import audit_page, registration_page

__all__ = ["audit_page", "case_page", "registration_page", "run_page"]
