"""What runs in the peers' own environments: each file serves the model the way its framework's guide shows it.

They import `served_model` and their framework, and nothing else of this repository that needs a package.
"""
