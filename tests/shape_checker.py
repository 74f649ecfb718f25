"""Checks types and tensor shapes of every function of the package while testing; a whole number counts as a float."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
