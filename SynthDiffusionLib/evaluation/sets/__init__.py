"""Sets of volumes measured against each other: any two folders, whatever made them.

`image_set` reads a folder; `fidelity`, `adherence`, `volumes` and `memorisation` measure; `results` writes what they
return as JSON, CSV and an HTML page. Measures of one model package on a prepared data set, which make its model card,
are in the package above.
"""
