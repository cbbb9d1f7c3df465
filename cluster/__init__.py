"""A cluster for the pipeline: an image, files for Compose, Kubernetes and Slurm, and all services on one machine."""
