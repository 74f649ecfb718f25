"""From files to arrays on one grid: reading, checking, preprocessing, patches, augmentation, phantoms."""
