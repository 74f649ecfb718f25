"""Layouts: how the files of a data set lie on a disk. What a layout calls a file stands in one module, for both ways.

- `folders`: one folder a case, `<case>/<case>_flair.nii.gz` (BraTS 2018 to 2021), `<case>/<case>-t2f.nii.gz`
  (from 2023), or just `<case>/flair.nii.gz`, with `seg`, `label`, `labels` or `mask` in the place of a modality;
- `dataset_json`: nnU-Net raw, v2 and v1, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`, and the Medical
  Segmentation Decathlon, one 4-D `imagesTr/<case>.nii.gz` for all modalities;
- `bids`: `sub-01/[ses-1/]anat/sub-01_[ses-1_]T1w.nii.gz`, labels in `derivatives/*`, their values in `dseg`;
- `table`: .csv or .tsv, one row a case, one column a modality.

Each has a `find`, which adds cases to what was `found`, `file_of`, the place of a new file, and `describe`, which
writes what stands beside the files (`cases.write_cases`). `contents` tells what lies in a folder and what names mean,
`finding` chooses the layout. CHAOS, DICOM slices and PNG labels, is first converted by `dicom.chaos`.
"""
