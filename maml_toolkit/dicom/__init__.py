"""DICOM in and out: series from a PACS to cases, through a table that a person confirms, and label maps back as SEG.

    series = dicom.find_series("export")                         # what is there, and what is wrong with it
    dicom.write_series_table(series, "series.csv", task)         # fill in the column `modality`
    cases = dicom.convert("export", "series.csv", "cases", task)
    dicom.write_segmentation("seg.dcm", Volume(prediction.labels, prediction.affine), series[0], task)

`slices` reads one file, `identity` takes the patient out of free text, `stacks` makes volumes of slices, `series` finds
them, `suggestions` and `confirmation` make and read the table, `conversion` and `segmentation` write.
"""

from maml_toolkit.dicom.confirmation import write_series_table
from maml_toolkit.dicom.conversion import convert
from maml_toolkit.dicom.segmentation import write_segmentation
from maml_toolkit.dicom.series import Found, Series, find_series, read_series

__all__ = ["Found", "Series", "convert", "find_series", "read_series", "write_segmentation", "write_series_table"]
