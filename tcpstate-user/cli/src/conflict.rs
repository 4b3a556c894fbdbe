//! Arguments that cannot be combined, in a way that clap cannot express.

/// The sentence that says so.
pub(crate) struct Conflict(pub(crate) String);
