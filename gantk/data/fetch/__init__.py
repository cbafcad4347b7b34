"""Public data sets by name: downloaded, checked, unpacked."""
