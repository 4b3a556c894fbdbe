//! The settings that all views share.

use jiff::tz::TimeZone;
use tcpstate_core::{
    model::Limits,
    options::{Format, TimeForm},
    origin::Evidence,
};

/// The settings that all views share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The output format.
    pub format: Format,
    /// The bounds of what the view keeps.
    pub limits: Limits,
    /// Whether text has colours.
    pub colour: bool,
    /// The columns of the terminal that lines of text must fit in; `None`: there is none, and nothing is cut.
    pub width: Option<usize>,
    /// Whether sockets of several network namespaces may be shown: then text says which, where it has room.
    pub several_netns: bool,
    /// The evidence that the events rest on: text has no columns, unless they are asked for, of what it never tells.
    pub evidence: Evidence,
    /// The time zone of local times.
    pub zone: TimeZone,
    /// Their form.
    pub time_form: TimeForm,
}

impl Settings {
    /// The same for events that rest on this evidence.
    pub(crate) fn resting_on(&self, evidence: Evidence) -> Self {
        Self {
            evidence,
            ..self.clone()
        }
    }

    /// This format with the usual bounds, no terminal, and local time in UTC.
    pub fn plain(format: Format) -> Self {
        Self {
            format,
            limits: Limits::default(),
            colour: false,
            width: None,
            several_netns: false,
            evidence: Evidence::Kernel,
            zone: TimeZone::UTC,
            time_form: TimeForm::default(),
        }
    }
}
