"""Thousands of volumes: one list of items, made by workers of this machine or of a Ray cluster.

An item is one volume: a segmentation, a model, settings and a seed. Its key is the checksum of all that, and its place
in the batch's folder follows from the key, so that whoever makes it, and how often, it is there once:

```
segmentations x seeds -> items.list_items -> [Item]
  -> schedule.carry_out(pool, items, store)     pool: local_pool (processes) or ray_pool (actors)
       worker: maker.Maker.make(item)           the model is loaded once, then jobs.runner.run for each item
         -> store.publish                       a folder that is complete is renamed to its final name
  -> report.write_report                        manifest, summary and page of what is there
```
"""
