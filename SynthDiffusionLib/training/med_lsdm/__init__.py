"""Training of Med-LSDM (Tang, Seyam and Yang, arXiv:2507.00206) in two stages."""
