"""The production scheduler in front of a model of an engine: `simulate` runs one workload, `suite` the comparison."""
