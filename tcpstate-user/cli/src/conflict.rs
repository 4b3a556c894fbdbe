//! Arguments that cannot be combined, in a way that clap cannot express.

/// Why arguments cannot be combined, where clap cannot express it.
pub(crate) struct Conflict(pub(crate) String);
