"""Statistics of reader studies: pure functions on numpy arrays, held by published data with known answers.

Ratings rise with the reader's belief that a volume is synthetic; truth is 1 for synthetic (the "positive") and 0 for
real. Every result is a frozen dataclass with `to_json()`. What cannot be computed honestly is refused with BadInput.

    results      what all results share; limits of equivalence
    proportions  exact binomial test, Clopper-Pearson and Wilson intervals, exact TOST, Holm, McNemar, Cochran's Q
    curves       ROC points, empirical AUC, DeLong, one reader's AUC with interval
    binormal     the binormal ROC curve of a rating scale, by maximum likelihood
    figures      figures of merit of many readers with their covariances, by the cases in common
    mrmc         two or more generators: Obuchowski-Rockette (its jackknife form is Dorfman-Berbaum-Metz)
    single_arm   one generator against a value: accuracy, AUC, forced choice; readers and cases random or fixed
    ordinal      Likert scales: tests that keep readers and cases apart, and the one that is refused
    detection    d', criterion and beta for yes/no and forced choice
    agreement    kappas, Gwet's AC1, Krippendorff's alpha, with intervals (formulae in chance_corrected)
    icc          the six intraclass correlations
    repeatability  one reader against the same reader later
    power        sizes for accuracy, equivalence, and multi-reader multi-case designs
    roe_metz     the simulator that the methods are tested with

numpy and scipy do the work; statsmodels is imported inside the functions that need it.
"""
