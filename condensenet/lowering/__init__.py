"""The exported graph made fast: exact rewrites of the grouped form, chosen by measurement."""
