"""What Millrace runs on: the embedded stack of a laptop, and the manifests of a company's cluster."""
