"""Names, paths, manifests and set records: values and rules, no I/O."""
