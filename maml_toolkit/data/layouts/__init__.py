"""Layouts: how the files of a data set lie on a disk. What a layout calls a file stands in one module, for both ways.

- `folders`: one folder a case, `<case>/<case>_flair.nii.gz` (BraTS 2018 to 2021), `<case>/<case>-t2f.nii.gz`
  (from 2023), or just `<case>/flair.nii.gz`, with `seg`, `label`, `labels` or `mask` in the place of a modality;
- `nnunet`: nnU-Net v2 raw, `dataset.json`, `imagesTr/<case>_0000.nii.gz`, `labelsTr/<case>.nii.gz`;
- `table`: .csv or .tsv, one row a case, one column a modality.

Each has a `find`, from a place to entries, and a `write`, from entries to a folder; `entries` holds what they share.
"""
