"""From rows to records, one table of functions per family of schemas; every defect becomes a finding with its place."""
