//! Placeholder: replaced by the crate's guide.
