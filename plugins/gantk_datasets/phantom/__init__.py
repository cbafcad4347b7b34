"""A data source that computes registered brain MR and CT of seeded heads, without any download."""
