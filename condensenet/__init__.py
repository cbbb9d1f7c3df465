"""CondenseNet (Huang et al., CVPR 2018): networks whose 1x1 convolutions learn which inputs to keep, by groups."""
