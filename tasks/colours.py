"""The colours that tell settings apart, in the report and in the MLflow UI."""

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
