"""The questions of an audit, one module each; see `workbench.report.examining`."""
