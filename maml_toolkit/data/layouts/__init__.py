"""Layouts: how the files of a data set lie on a disk. What a layout calls a file stands in one module, for both ways.

- `folders`: one folder a case, `<case>/<case>_flair.nii.gz` (BraTS 2018 to 2021), `<case>/<case>-t2f.nii.gz`
  (from 2023), or just `<case>/flair.nii.gz`, with `seg`, `label`, `labels` or `mask` in the place of a modality;
- `nnunet`: nnU-Net raw, v2 and v1, `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`;
- `decathlon`: the Medical Segmentation Decathlon, `dataset.json`, one 4-D `imagesTr/<case>.nii.gz` for all modalities;
- `table`: .csv or .tsv, one row a case, one column a modality.

Each has a `find`, from a place to entries, and all but `decathlon` a `write`, from entries to a folder; `entries` holds
what they share, `description` reads a dataset.json, `finding` and `writing` choose the layout. CHAOS, DICOM slices and
PNG labels, is first converted by `dicom.chaos`.
"""
