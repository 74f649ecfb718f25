"""Prediction of many cases in shards: by one process or by hundreds, again and again, until every case is done."""
