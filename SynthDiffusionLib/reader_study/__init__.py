"""Reader studies: from a folder of volumes to a published table.

A study is designed and built by a coordinator, read by radiologists who do not know which volume is synthetic, merged
and analysed. The modules, in the order of a study's life:

* `forms`, `study`: what is asked and what is shown; the frozen study file and its hash.
* `design`, `equalise`, `leaks`, `order`, `build`: from a design to the folder that readers get, without the truth.
* `records`, `clock`, `reading`, `verify`: one append-only, hash-chained file per reader, and what was done to it.
* `merge`, `tables`, `analysis`, `report`, `exports`: from the readers' files to tables, a report and other programs.
* `statistics`: the formulas, without any file.

Reading needs the standard library only, so that it runs in Slicer's own Python; the analysis needs scipy, statsmodels
and matplotlib (the extra `study`).
"""
