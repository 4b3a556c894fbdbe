//! The settings that all views share.

use jiff::tz::TimeZone;
use tcpstate_core::{model::Limits, options::Format};

/// The settings that all views share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The output format.
    pub format: Format,
    /// The bounds of what the view keeps.
    pub limits: Limits,
    /// Whether text has colours.
    pub colour: bool,
    /// The time zone of local times.
    pub zone: TimeZone,
}

impl Settings {
    /// This format with the usual bounds, no colour, and local time in UTC.
    pub fn plain(format: Format) -> Self {
        Self {
            format,
            limits: Limits::default(),
            colour: false,
            zone: TimeZone::UTC,
        }
    }
}
