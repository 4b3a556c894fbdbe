//! The headings under which help groups options. An option has the same heading in every command.

pub(crate) const CAPTURE: &str = "Capture";
pub(crate) const FILTERS: &str = "Filters";
pub(crate) const MEMORY: &str = "Memory";
pub(crate) const OUTPUT: &str = "Output";
