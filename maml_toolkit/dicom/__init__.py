"""DICOM in and out: series from a PACS to cases, through a table that a person confirms, and label maps back as SEG.

    series = dicom.find_series("export")                         # what is there, and what is wrong with it
    dicom.write_series_table(series, "series.csv", task)         # fill in the column `modality`
    cases = dicom.convert("export", "series.csv", "cases", task)
    dicom.write_segmentation("seg.dcm", Volume(prediction.labels, prediction.affine), series[0], task)
    dicom.read_label("rtstruct.dcm", series[0], task)            # what somebody drew, as a label map

`headers` opens one file and says what it is, `stacks` makes volumes of slices, `series` finds and reads them,
`conversion` writes cases, `chaos` those of the data set CHAOS, `labels` reads SEG and RTSTRUCT, `segmentation` writes
SEG.
"""

from maml_toolkit.dicom.conversion import confirmed, convert, expect_elsewhere, only_candidates, write_series_table
from maml_toolkit.dicom.labels import read_label
from maml_toolkit.dicom.segmentation import write_segmentation
from maml_toolkit.dicom.series import Found, Series, find_series, read_series

__all__ = ["Found", "Series", "confirmed", "convert", "expect_elsewhere", "find_series", "only_candidates",
           "read_label", "read_series", "write_segmentation", "write_series_table"]
