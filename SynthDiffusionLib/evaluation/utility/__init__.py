"""Would synthetic images do real work? Three experiments, each on real test patients that nothing else has seen.

* `augmentation`: a segmentation network trained on real images, on synthetic ones, on both, and on real ones with
  synthetic ones of the worst validation cases (Khadra and Türkbey, arXiv:2410.12542).
* `scarcity`: the same network trained on few real patients, with and without pairs of image and mask that a generator
  made which was trained on those few (Kebaili et al., arXiv:2406.05421).
* `gap`: a network trained on real images, tested on synthetic and on real images of the same test masks (Med-LSDM,
  arXiv:2507.00206).

An arm never sees a generator that has seen other patients than the arm's (`generators`).
"""
