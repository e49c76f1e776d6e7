"""From a table to a pipeline folder: `millrace.scaffold.write.create_pipeline`."""
